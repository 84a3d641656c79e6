"""Checks the rules for Prometheus and the dashboard for Grafana with the real service.

A Prometheus with the rules reads the metrics of a service. While the service is idle, no alert may be
pending. Then it gets a little load, and each query of the dashboard and each recording rule must return
numbers, and the alerts that this load is a reason for must be pending. Whatever an expression names
(metrics, labels, and values of labels) must exist. So must the commands that the alerts recommend.

Usage: check.py PROGRAM
"""

import contextlib
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import commands
from admin import Admin
from dashboard import Dashboard
from expressions import Expression
from load import CONNECTIONS_PER_GATEWAY, Load
from processes import Process, TooLate, free_port, listens, until
from prometheus import Prometheus, Refused

PROGRAM = Path(sys.argv[1])
CONFIG = Path(__file__).parent.parent.parent / "config"

# The load is a reason for these, and the end of the service for the last one.
EXPECTED = {
    "GatewayEventsDeadLetters",
    "GatewayEventsDeliveriesFailing",
    "GatewayEventsEventsUnmatched",
    "GatewayEventsGatewaysAway",
    "GatewayEventsGatewaysFailing",
    "GatewayEventsGatewaysRefused",
    "GatewayEventsInboxRejected",
}
AT_THE_END = "GatewayEventsNodeDown"
# Values of these labels exist only after something has happened, such as the status 507.
LATER = {"status"}
# The service of this check has SQLite.
WITH_POSTGRES = {"gateway_events_listening"}
# Prometheus adds them to every metric.
TARGET = {"job", "instance"}


class Check:
    def __init__(self, work, ending):
        self.work, self.ending = work, ending
        self.dashboard = Dashboard(CONFIG / "grafana/gateway-events.json")
        self.port = free_port()
        self.certificate = work / "data/certificate.pem"

    def start(self, name, command, **options):
        process = Process(name, command, self.work / f"{name}.log", **options)
        self.ending.callback(process.kill)
        return process

    def start_service(self):
        settings = {
            "LIMITS__ATTEMPTS_PER_MINUTE": "1000",
            "DELIVERY__MAX_CONNECTIONS_PER_GATEWAY": str(CONNECTIONS_PER_GATEWAY),
        }
        environment = {f"GATEWAY_EVENTS__{name}": value for name, value in settings.items()}
        environment |= {"PATH": os.environ["PATH"], "HOME": str(self.work)}
        command = [PROGRAM, "serve", "--data-dir", self.work / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--admin-token-file", self.work / "token"]
        self.service = self.start("service", command, env=environment)
        token = self.work / "token"
        until("the service listens", lambda: listens(self.port) and token.exists(), self.service)
        self.admin = Admin(f"https://localhost:{self.port}", self.certificate, token)
        until("the service is ready", self.admin.is_ready, self.service)

    def start_prometheus(self):
        self.prometheus = Prometheus(
            CONFIG / "prometheus", self.work, self.port, self.certificate, free_port(), self.start
        )
        until("Prometheus is ready", self.prometheus.is_ready, self.prometheus.process)

    def until(self, what, is_done):
        until(what, is_done, self.service, self.prometheus.process)

    def until_evaluated(self):
        """Waits until all rules have been evaluated with what is known now."""
        before = self.prometheus.evaluations()
        self.until(
            "the rules are evaluated",
            lambda: all(old != new for old, new in zip(before, self.prometheus.evaluations())),
        )

    def check_idle(self):
        """No alert is pending while the service is idle."""
        # Measured every 15 s.
        self.until("the gateways are counted", lambda: self.prometheus.now("gateway_events_gateways"))
        pending = {}
        for _ in range(3):
            self.until_evaluated()
            pending |= self.prometheus.alerts()
        for name, alert in pending.items():
            yield f"{name} is {alert['state']} while the service is idle: {alert['annotations']['summary']}"

    def check_answers(self, load, start):
        """Queries and recording rules return numbers under load."""
        recorded = [it["name"] for it in self.prometheus.rules() if it["type"] == "recording"]
        silent = {query.name: query for query in self.dashboard.queries}
        wrong = []

        def answer():
            load.round()
            for name, query in list(silent.items()):
                try:
                    found = self.prometheus.since(start, query.text)
                except Refused as error:
                    wrong.append(f"{name}: {error}: {query.text}")
                    found = [{"metric": dict.fromkeys(query.legend)}]
                if found:
                    del silent[name]
                for label in query.legend:
                    if any(label not in series["metric"] for series in found):
                        wrong.append(f"{name}: some series have no label {label}: {query.text}")
            recorded[:] = [name for name in recorded if not self.prometheus.since(start, name)]
            return not silent and not recorded

        try:
            self.until("all queries and recording rules return numbers", answer)
        except TooLate as error:
            yield str(error)
        yield from wrong
        yield from (f"{name} returns nothing: {query.text}" for name, query in silent.items())
        yield from (f"the recording rule {name} returns nothing" for name in recorded)

    def check_alerts(self, load):
        """Alerts are pending if there is a reason, and their texts can be rendered."""
        missing = set(EXPECTED)

        def are_pending():
            load.round()
            missing.difference_update(self.prometheus.alerts())
            return not missing

        try:
            self.until("the alerts are pending", are_pending)
        except TooLate as error:
            yield str(error)
        yield from (f"{name} is not even pending" for name in sorted(missing))
        for name, alert in self.prometheus.alerts().items():
            for text in alert["annotations"].values():
                if "<error" in text or "<no value>" in text:
                    yield f"{name}: {text}"

    def check_rules(self):
        """Rules are evaluated without errors; alerts have what they need, and tests."""
        tests = (CONFIG / "prometheus/alerts_test.yml").read_text()
        for rule in self.prometheus.rules():
            if rule["health"] != "ok":
                yield f"{rule['name']}: {rule['health']}: {rule.get('lastError')}"
            if rule["type"] != "alerting":
                continue
            if not rule["duration"]:
                yield f"{rule['name']} has no `for`"
            if rule["labels"].get("severity") not in ("critical", "warning", "info"):
                yield f"{rule['name']} has no severity"
            if rule["annotations"].keys() != {"summary", "description"}:
                yield f"{rule['name']} needs a summary and a description"
            if f'"{rule["name"]}"' not in tests:
                yield f"{rule['name']} is not tested in alerts_test.yml"
            text = " ".join(rule["annotations"].values())
            yield from (f"{rule['name']}: {it}" for it in commands.complaints(text, PROGRAM))

    def check_names(self):
        """Metrics, labels and values exist."""
        expressions = {it["name"]: Expression(it["query"]) for it in self.prometheus.rules()}
        expressions |= {it.name: Expression(it.text) for it in self.dashboard.queries}
        labels = {}
        for name, expression in expressions.items():
            if expression.metrics & WITH_POSTGRES:
                continue
            for metric in expression.metrics - labels.keys():
                labels[metric] = {}
                for series in self.prometheus.get("series", **{"match[]": metric}):
                    for label, value in series.items():
                        labels[metric].setdefault(label, set()).add(value)
            unknown = {metric for metric in expression.metrics if not labels[metric]}
            if unknown:
                yield f"{name}: there is no metric {', '.join(sorted(unknown))}"
                continue
            grouped = set().union(TARGET, *(labels[metric] for metric in expression.metrics))
            for metric, label in expression.matched:
                if label not in labels[metric]:
                    yield f"{name}: {metric} has no label {label}"
            for metric, label, value in expression.values:
                if label not in LATER and value not in labels[metric].get(label, ()):
                    yield f"{name}: {label} of {metric} is never {value}"
            for label in expression.grouped - grouped:
                yield f"{name}: no metric has the label {label}"
        self.note_unused(labels)

    def note_unused(self, used):
        """Prints metrics that could be missing on the dashboard."""
        known = {it for it in self.prometheus.get("metadata") if it.startswith("gateway_events_")}
        endings = ("", "_bucket", "_sum", "_count")
        unused = [it for it in known if not any(it + ending in used for ending in endings)]
        if unused:
            print("neither on the dashboard nor in a rule:", ", ".join(sorted(unused)))

    def check_end(self):
        """The end of the service is noticed."""
        self.service.kill()
        until(
            f"{AT_THE_END} is pending",
            lambda: AT_THE_END in self.prometheus.alerts(),
            self.prometheus.process,
        )

    def run(self):
        yield from self.dashboard.complaints()
        self.start_service()
        self.start_prometheus()
        yield from self.check_idle()
        start = time.time()
        load = Load(self.admin, PROGRAM, self.work, self.certificate, self.start)
        yield from self.check_answers(load, start)
        yield from self.check_alerts(load)
        yield from self.check_rules()
        yield from self.check_names()
        self.check_end()


def main():
    # Children are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="dashboards-") as work, contextlib.ExitStack() as ending:
        check = Check(Path(work), ending)
        wrong = list(check.run())
        rules, queries = check.prometheus.rules(), check.dashboard.queries
    for complaint in wrong:
        print(complaint, file=sys.stderr)
    if wrong:
        raise SystemExit(f"{len(wrong)} complaints about config/prometheus and config/grafana")
    print(f"{len(rules)} rules and {len(queries)} queries are right, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
