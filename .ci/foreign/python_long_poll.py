"""Long polling with Python's standard library."""

import os
import sys

sys.path.insert(0, os.path.dirname(__file__))
from common import ORIGIN, call, gateway, publish, until_confirmed

gateway_id, key = gateway()
publish(gateway_id, 3)
seen, after = [], ""
while len(seen) < 3:
    path = f"/gateways/events?instance=python&wait=5s{after}"
    answer = call("GET", path, origin=ORIGIN, headers={"api-key": key})
    if answer is None:
        continue
    seen += [event["sequence"] for event in answer["events"]]
    position = f"{answer['epoch']}.{seen[-1]}"
    after = f"&after={position}"
assert seen == [1, 2, 3], seen
path = f"/gateways/events?instance=python&wait=100ms{after}&ack={position}"
assert call("GET", path, origin=ORIGIN, headers={"api-key": key}) is None
until_confirmed(gateway_id, 3)
