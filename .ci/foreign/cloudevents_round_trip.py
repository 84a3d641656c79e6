"""CloudEvents with Python's package cloudevents: it writes events in each content mode, and the service
publishes them. A long poll that asks for CloudEvents returns what the package reads back, and so does the
agent, which posts each event in binary mode."""

import datetime
import http.server
import json
import threading
import urllib.request

from cloudevents.core.bindings.http import (
    HTTPMessage,
    from_binary_event,
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
        "id": f"python-{number}-{gateway}",
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


def publish_all(admin, gateway):
    """Publishes four events, in each content mode; returns them."""
    sent = [event(gateway, number) for number in range(1, 5)]
    publish(admin, to_binary_event(sent[0]))
    publish(admin, to_structured_event(sent[1]))
    bodies = [to_structured_event(it).body for it in sent[2:]]
    batch = HTTPMessage({"content-type": BATCHED}, b"[" + b",".join(bodies) + b"]")
    results = publish(admin, batch)["results"]
    assert [it["id"] for it in results] == [it.get_id() for it in sent[2:]], results
    return sent


def compare(before, after, of_deliveries, is_text):
    """Compares an event with what was sent. Texts are all that headers have."""
    attributes = after.get_attributes()
    found = {k: v for k, v in attributes.items() if k not in of_deliveries}
    expected = {k: v for k, v in before.get_attributes().items() if k != "gatewayids" and v is not None}
    if is_text:
        expected["nth"] = str(expected["nth"])
    assert found == expected, (found, expected)
    assert after.get_data() == before.get_data(), after.get_data()


def check(admin):
    gateway, key = admin.register("cloudevents")
    sent = publish_all(admin, gateway)
    polled = request(admin, "/gateways/events?instance=python&envelope=cloudevents", {"api-key": key})
    received = [
        from_structured_event(HTTPMessage({"content-type": STRUCTURED}, json.dumps(it).encode()))
        for it in polled["events"]
    ]
    assert len(received) == len(sent), polled
    for number, (before, after) in enumerate(zip(sent, received), start=1):
        assert after.get_attributes()["sequence"] == f"{number:016}", after.get_attributes()
        compare(before, after, OF_DELIVERIES, is_text=number == 1)
    print(f"cloudevents: {len(received)} events, each as it was sent")


class Receiver(http.server.BaseHTTPRequestHandler):
    """Takes every event that is posted to it."""

    messages = []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.messages.append(HTTPMessage(dict(self.headers), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def check_agent(run, admin, program, until):
    """The agent posts events to a server that the package reads them for."""
    gateway, key = admin.register("cloudevents-agent")
    sent = publish_all(admin, gateway)
    (run.work / "agent-key").write_text(key)
    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [program, "agent", "--url", admin.origin, "--ca-file", run.certificate]
        command += ["--key-file", run.work / "agent-key", "--position", run.work / "agent-position"]
        command += ["--instance", "python"]
        command += ["--forward-to", f"http://127.0.0.1:{server.server_port}/events"]
        agent = run.start("agent", command)
        until("the agent has posted its events", lambda: admin.confirmed(gateway) == len(sent), agent)
        agent.kill()
        server.shutdown()
    received = [from_binary_event(message) for message in Receiver.messages]
    assert len(received) == len(sent), received
    for number, (before, after) in enumerate(zip(sent, received), start=1):
        attributes = after.get_attributes()
        assert attributes["sequence"] == f"{number:016}", attributes
        assert attributes["attempt"] == "1" and attributes["epoch"], attributes
        compare(before, after, OF_DELIVERIES, is_text=True)
    print(f"cloudevents: {len(received)} events from the agent, each as it was sent")
