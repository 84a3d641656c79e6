"""A little of everything that the metrics count: gateways on each transport, one that is away, one that
rejects its events and one that is disabled; events by HTTP and by the inbox; refusals of all kinds."""

import contextlib
import http.client
import os
import sqlite3
import ssl
import urllib.parse

# Arguments of `gateway-events listen` for each transport.
TRANSPORTS = {
    "plain": [],
    "reliable": ["--reliable", "--instance", "one"],
    "sse": ["--reliable", "--instance", "one", "--transport", "sse"],
    "long-poll": ["--reliable", "--instance", "one", "--transport", "long-poll"],
    "grpc": ["--reliable", "--instance", "one", "--transport", "grpc"],
}
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
# `DELIVERY__MAX_CONNECTIONS_PER_GATEWAY` of the service: a gateway may have twice as many.
CONNECTIONS_PER_GATEWAY = 1
TYPES = {
    "gateway.config.updated": {"configType": "cache", "action": "update"},
    "api.deployed": {"apiId": "a-1", "deploymentId": "d-1", "performedAt": "2026-01-31T09:30:00.001Z"},
}


class Load:
    def __init__(self, admin, program, work, certificate, start):
        self.admin, self.work, self.start = admin, work, start
        self.program, self.certificate = program, certificate
        self.context = ssl.create_default_context(cafile=certificate)
        self.processes = [self.listen(name, options) for name, options in TRANSPORTS.items()]
        _, self.leaving_key = admin.register("leaving")
        self.leaving = None
        # Two connections of one gateway: further ones are refused.
        self.full, self.full_key = admin.register("full")
        self.processes += [self.client(f"full-{it}", self.full_key, self.listening([])) for it in "ab"]
        self.processes.append(self.agent("failing"))
        self.away, _ = admin.register("away")
        disabled, key = admin.register("disabled")
        admin.call("PATCH", f"/gateways/{disabled}", {"disabled": True})
        self.disabled_key = key
        self.processes.append(self.follow())

    def client(self, name, key, command):
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.work),
            "GATEWAY_EVENTS_URL": self.admin.origin,
            "GATEWAY_EVENTS_CA_FILE": str(self.certificate),
            "GATEWAY_EVENTS_KEY": key,
            "GATEWAY_EVENTS_TOKEN": self.admin.token,
        }
        return self.start(name, [self.program, *command], env=environment)

    def listening(self, options):
        return ["listen", "--as-gateway", "--yes", *options]

    def listen(self, name, options):
        """A gateway that confirms what it receives."""
        _, key = self.admin.register(name)
        return self.client(name, key, self.listening(options))

    def agent(self, name):
        """A gateway that rejects every event, for good: they become dead letters."""
        _, key = self.admin.register(name)
        command = ["agent", "--position", self.work / name, "--instance", "one", "--exec", "false"]
        return self.client(name, key, command)

    def follow(self):
        return self.client("tail", "", ["tail"])

    def leave(self):
        """Ends the connection of a gateway and connects again."""
        if self.leaving:
            self.leaving.kill()
        self.leaving = self.client("leaving", self.leaving_key, self.listening([]))

    def round(self):
        """Publishes, reads, leaves and is refused, once."""
        self.leave()
        for event_type, payload in TYPES.items():
            everyone = {"type": event_type, "payload": payload, "target": {"all": True}}
            self.admin.call("POST", "/events", everyone)
        nowhere = {"type": "gateway.config.updated", "payload": TYPES["gateway.config.updated"]}
        self.admin.call("POST", "/events", nowhere | {"target": {"labels": {"env": "mistyped"}}})
        for path in ["/gateways", "/events", "/deliveries", "/stats"]:
            self.admin.call("GET", path)
        self.insert()
        self.refused("/ws/gateways/connect", UPGRADE | {"api-key": self.full_key})
        self.refused("/ws/gateways/connect", UPGRADE | {"api-key": self.disabled_key})
        self.refused("/ws/gateways/connect", UPGRADE | {"api-key": "gwk_wrong"})
        self.refused("/gateways", {"Authorization": "Bearer gwa_wrong"})

    def insert(self):
        """Inserts a row that is published and one that is rejected."""
        payload = '{"configType": "cache", "action": "update"}'
        with contextlib.closing(sqlite3.connect(self.work / "data/gateway-events.db", timeout=60)) as inbox:
            for event_type in ["gateway.config.updated", "plan.changed"]:
                inbox.execute(
                    "insert into inbox (type, payload, target) values (?, ?, '{\"all\": true}')",
                    (event_type, payload),
                )
            inbox.commit()

    def refused(self, path, headers):
        """Sends a request that is refused. urllib can't send this `Connection`."""
        address = urllib.parse.urlsplit(self.admin.origin).netloc
        connection = http.client.HTTPSConnection(address, context=self.context, timeout=120)
        with contextlib.closing(connection):
            connection.request("GET", f"/api/internal/v1{path}", headers=headers)
            status = connection.getresponse().status
        if status < 400:
            raise SystemExit(f"{path} was answered with {status}")
