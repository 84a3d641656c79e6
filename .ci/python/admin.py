"""What a check does as an admin: registers gateways, publishes events and reads the ledger."""

import json
import ssl
import urllib.error
import urllib.request


class Admin:
    def __init__(self, origin, certificate, token_file):
        self.origin = origin
        self.context = ssl.create_default_context(cafile=certificate)
        self.token = token_file.read_text().strip()

    def call(self, method, path, body=None):
        """Sends a request to a path below the API's base path; returns the JSON of the answer."""
        request = urllib.request.Request(
            f"{self.origin}/api/internal/v1{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, context=self.context, timeout=120) as answer:
            return json.load(answer)

    def is_ready(self):
        try:
            urllib.request.urlopen(f"{self.origin}/readyz", context=self.context, timeout=120).close()
        except OSError:
            return False
        return True

    def register(self, name):
        """Registers a gateway; returns its id and key."""
        gateway = self.call("POST", "/gateways", {"name": name})["id"]
        return gateway, self.call("POST", f"/gateways/{gateway}/tokens", {})["token"]

    def publish(self, gateway, numbers):
        """Publishes an event for each number; returns their ids."""
        events = [
            {
                "type": "gateway.config.updated",
                "gatewayIds": [gateway],
                "payload": {"configType": "cache", "action": "update", "number": number},
            }
            for number in numbers
        ]
        return [it["id"] for it in self.call("POST", "/events", {"events": events})["results"]]

    def confirmed(self, gateway):
        return self.call("GET", f"/gateways/{gateway}")["confirmed"]

    def deliveries(self, gateway, status):
        path = f"/deliveries?gatewayId={gateway}&status={status}&limit=100"
        return self.call("GET", path)["list"]

    def connections(self, gateway):
        return self.call("GET", f"/gateways/{gateway}/connections?status=all&limit=100")["list"]
