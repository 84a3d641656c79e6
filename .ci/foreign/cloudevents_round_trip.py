"""CloudEvents with Python's package cloudevents: it writes events in each content mode, the service
publishes them, and a long poll that asks for CloudEvents returns what the package reads back."""

import datetime
import json
import urllib.request

from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_structured_event,
    to_binary_event,
    to_structured_event,
)
from cloudevents.core.v1.event import CloudEvent

BASE = "/api/internal/v1"
STRUCTURED = "application/cloudevents+json"
BATCHED = "application/cloudevents-batch+json"
# Set by the service in each delivery, and the extension that it derives from the id.
OF_DELIVERIES = ["sequence", "previous", "epoch", "attempt", "correlationid"]


def request(admin, path, headers, body=None):
    call = urllib.request.Request(f"{admin.origin}{BASE}{path}", body, headers)
    with urllib.request.urlopen(call, context=admin.context, timeout=120) as answer:
        assert answer.status in (200, 202), answer.status
        return json.load(answer)


def event(gateway, number):
    attributes = {
        "id": f"python-{number}",
        "source": "https://example.com/python?a=b",
        "type": "gateway.config.updated",
        "subject": "Euro € 😀 \"100%\"",
        "time": datetime.datetime(2026, 1, 31, 9, 30, tzinfo=datetime.timezone.utc),
        "datacontenttype": "application/json",
        "dataschema": "https://example.com/schema",
        "gatewayids": gateway,
        "tenant": "größe",
        "nth": number,
    }
    return CloudEvent(attributes, {"configType": "cache", "action": "update", "number": number})


def publish(admin, message):
    headers = {"Authorization": f"Bearer {admin.token}"} | message.headers
    return request(admin, "/events", headers, message.body)


def check(admin):
    gateway, key = admin.register("cloudevents")
    sent = [event(gateway, number) for number in range(1, 5)]
    publish(admin, to_binary_event(sent[0]))
    publish(admin, to_structured_event(sent[1]))
    bodies = [to_structured_event(it).body for it in sent[2:]]
    batch = HTTPMessage({"content-type": BATCHED}, b"[" + b",".join(bodies) + b"]")
    results = publish(admin, batch)["results"]
    assert [it["id"] for it in results] == ["python-3", "python-4"], results

    polled = request(admin, "/gateways/events?instance=python&envelope=cloudevents", {"api-key": key})
    received = [
        from_structured_event(HTTPMessage({"content-type": STRUCTURED}, json.dumps(it).encode()))
        for it in polled["events"]
    ]
    assert len(received) == len(sent), polled
    for number, (before, after) in enumerate(zip(sent, received), start=1):
        attributes = after.get_attributes()
        assert attributes.pop("sequence") == f"{number:016}", attributes
        expected = {k: v for k, v in before.get_attributes().items() if k != "gatewayids" and v is not None}
        # Headers have texts only.
        expected["nth"] = str(number) if number == 1 else number
        found = {k: v for k, v in attributes.items() if k not in OF_DELIVERIES}
        assert found == expected, (found, expected)
        assert after.get_data() == before.get_data(), after.get_data()
    print(f"cloudevents: {len(received)} events, each as it was sent")
