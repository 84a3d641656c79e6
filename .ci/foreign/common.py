"""What the foreign clients have in common: registers a gateway and publishes events for it."""

import json
import os
import ssl
import time
import urllib.error
import urllib.request

ORIGIN = os.environ["ORIGIN"]
BASE = "/api/internal/v1"
CONTEXT = ssl.create_default_context(cafile=os.environ["CA"])


def call(method, path, body=None, origin=os.environ["DIRECT"], headers=None):
    """Sends a request; returns the JSON of the answer, or None for 204."""
    headers = headers or {"Authorization": "Bearer " + os.environ["TOKEN"]}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(origin + BASE + path, data, headers, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, context=CONTEXT, timeout=40) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def gateway():
    """Registers a gateway; returns its id and key."""
    made = call("POST", "/gateways", {"name": os.environ["KEY_OF"]})
    token = call("POST", f"/gateways/{made['id']}/tokens", {})
    return made["id"], token["token"]


def publish(gateway_id, count):
    event = {
        "type": "gateway.config.updated",
        "gatewayIds": [gateway_id],
        "payload": {"configType": "cache", "action": "update"},
    }
    call("POST", "/events", [event] * count)


def until_confirmed(gateway_id, sequence):
    for _ in range(200):
        shown = call("GET", f"/gateways/{gateway_id}")
        if shown["confirmed"] == sequence:
            return
        time.sleep(0.05)
    raise SystemExit(f"never confirmed: {shown}")


if __name__ == "__main__":
    import sys

    if sys.argv[1] == "gateway":
        print(*gateway())
    elif sys.argv[1] == "publish":
        publish(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1] == "confirmed":
        until_confirmed(sys.argv[2], int(sys.argv[3]))
