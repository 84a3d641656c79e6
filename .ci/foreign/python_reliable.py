"""Reliable mode with the package websockets, which connects again by itself."""

import asyncio
import json

from received import BASE, CONTEXT, KEY, ORIGIN, Received
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = f"wss{ORIGIN.removeprefix('https')}{BASE}/ws/gateways/connect"
PROTOCOL = "gateway-events.v1"


async def main():
    received = Received()
    resume = "server"
    options = {"ssl": CONTEXT, "additional_headers": {"api-key": KEY}, "subprotocols": [PROTOCOL]}
    async for socket in connect(URL, **options):
        try:
            assert socket.subprotocol == PROTOCOL, socket.subprotocol
            async for text in socket:
                frame = json.loads(text)
                if frame["type"] == "connection.ack":
                    received.connected()
                    hello = {"type": "connection.hello", "instance": "python", "confirm": "applied"}
                    await socket.send(json.dumps(hello | {"resume": resume}))
                elif frame["type"].startswith(("connection.", "delivery.")):
                    assert frame["type"] in ("connection.resumed", "delivery.mark"), frame
                else:
                    received.insert(frame["sequence"], frame["payload"])
                    # The position of this client, who has applied what it has received.
                    resume = {"epoch": frame["epoch"], "sequence": received.last}
                    ack = {"type": "delivery.ack", "applied": received.to_confirm()}
                    await socket.send(json.dumps(ack))
                if received.is_complete():
                    break
            if received.is_complete():
                await socket.close()
                break
        except ConnectionClosed:
            pass
    received.report()


asyncio.run(main())
