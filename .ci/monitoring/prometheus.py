"""A Prometheus with the rules of config/prometheus, which reads the metrics of a service each second."""

import json
import math
import shutil
import urllib.error
import urllib.parse
import urllib.request

RULES = ["recording.yml", "alerts.yml"]


class Prometheus:
    def __init__(self, config, work, service_port, certificate, port, start):
        """Starts it with the example of its configuration, with other addresses and intervals."""
        replacements = {
            "/etc/prometheus/gateway-events.pem": str(certificate),
            '["node-1:8443", "node-2:8443"]': f'["127.0.0.1:{service_port}"]',
            "scrape_interval: 15s": "scrape_interval: 1s",
            "evaluation_interval: 15s": "evaluation_interval: 1s",
        }
        text = (config / "prometheus.yml").read_text()
        for place, here in replacements.items():
            if place not in text:
                raise SystemExit(f"config/prometheus/prometheus.yml has no {place!r}")
            text = text.replace(place, here)
        (work / "prometheus.yml").write_text(text)
        for name in RULES:
            shutil.copy(config / name, work)
        self.origin = f"http://127.0.0.1:{port}"
        self.process = start("prometheus", [
            "prometheus",
            f"--config.file={work}/prometheus.yml",
            f"--storage.tsdb.path={work}/prometheus",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ])

    def get(self, path, **parameters):
        """The data of an answer; raises `Refused` with the message of an error."""
        url = f"{self.origin}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=120) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Refused(json.load(error).get("error", str(error))) from error

    def is_ready(self):
        try:
            urllib.request.urlopen(f"{self.origin}/-/ready", timeout=120).close()
        except OSError:
            return False
        return True

    def now(self, expression):
        """The current result of an expression."""
        return self.get("query", query=expression)["result"]

    def since(self, start, expression):
        """The series of an expression from a time on that have at least one number."""
        end = float(self.get("query", query="time()")["result"][1])
        found = self.get("query_range", query=expression, start=start, end=end, step=1)["result"]
        return [it for it in found if any(not math.isnan(float(value)) for _, value in it["values"])]

    def rules(self):
        """All rules, with their state."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]

    def evaluations(self):
        """When each group of rules was evaluated last."""
        return [group["lastEvaluation"] for group in self.get("rules")["groups"]]

    def alerts(self):
        """The alerts that are pending or firing, by name."""
        return {it["labels"]["alertname"]: it for it in self.get("alerts")["alerts"]}


class Refused(Exception):
    """Prometheus refuses an expression."""
