"""Plain mode with the package websockets, which answers pings and connects again by itself."""

import asyncio
import json
import sys

from received import BASE, CONTEXT, KEY, ORIGIN, Received
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

URL = f"wss{ORIGIN.removeprefix('https')}{BASE}/ws/gateways/connect"


async def close_after(ended, socket):
    await asyncio.shield(ended)
    await socket.close()


async def main():
    received = Received()
    # Events are confirmed by the pongs, so the socket stays open until the check has seen all of them.
    ended = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    async for socket in connect(URL, ssl=CONTEXT, additional_headers={"api-key": KEY}):
        closing = asyncio.create_task(close_after(ended, socket))
        try:
            assert json.loads(await socket.recv())["type"] == "connection.ack"
            received.connected()
            async for text in socket:
                event = json.loads(text)
                received.insert(event["sequence"], event["payload"])
        except ConnectionClosed:
            pass
        if ended.done():
            await closing
            break
        closing.cancel()
    assert received.is_complete(), received.last
    received.report()


asyncio.run(main())
