"""Long polling with Python's standard library."""

import http.client
import json
import time
import urllib.error
import urllib.request

from received import BASE, CONTEXT, KEY, ORIGIN, Received


def poll(parameters):
    """Returns the answer; None if there is nothing."""
    url = f"{ORIGIN}{BASE}/gateways/events?instance=python&wait=2s{parameters}"
    request = urllib.request.Request(url, headers={"api-key": KEY})
    with urllib.request.urlopen(request, context=CONTEXT, timeout=120) as answer:
        return json.load(answer) if answer.status == 200 else None


received = Received()
received.connected()
parameters, confirmed = "", 0
while not (received.is_complete() and confirmed == received.last):
    try:
        answer = poll(parameters)
    except urllib.error.HTTPError as error:
        # A proxy, or the service, has no connection now.
        assert error.code in (502, 503, 504), error
        received.connected()
        time.sleep(0.2)
        continue
    except (OSError, http.client.HTTPException):
        received.connected()
        time.sleep(0.2)
        continue
    if "ack=" in parameters:
        confirmed = acknowledged
    for event in answer["events"] if answer else []:
        received.insert(event["sequence"], event["payload"])
        epoch = event["epoch"]
    acknowledged = received.to_confirm()
    parameters = f"&after={epoch}.{received.last}&ack={epoch}.{acknowledged}" if received.last else ""
received.report()
