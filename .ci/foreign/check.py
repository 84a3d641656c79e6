"""Runs the foreign clients against a service that is killed while they are connected.

Each client receives events as a gateway of its own, directly or through a proxy. When all have
confirmed a part of what they have received, the service is killed and started again. They connect
again and receive the rest. Then the ledger must say that each event was delivered.

Usage: check.py PROGRAM NODE_MODULES
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cloudevents_round_trip
from admin import Admin
from processes import Process, free_port, listens, until

PROGRAM, NODE_MODULES = map(Path, sys.argv[1:])
CLIENTS = Path(__file__).parent
CONFIG = CLIENTS.parent.parent / "config"

# Events before and after the service is killed, and how many of them are confirmed before.
BEFORE, CONFIRMED_BEFORE, TOTAL = 20, 10, 40
# The address from which HAProxy connects when it forwards TCP.
BALANCER = "127.0.0.5"

# Name, command, transport in the ledger, and the outcome of its attempts.
KINDS = [
    ("curl", ["bash", CLIENTS / "curl_event_stream.sh"], "sse", "applied"),
    ("eventsource", ["node", CLIENTS / "node_eventsource.mjs"], "sse", "applied"),
    ("long-poll", [sys.executable, CLIENTS / "python_long_poll.py"], "long_poll", "applied"),
    ("plain", [sys.executable, CLIENTS / "python_plain.py"], "websocket", "received"),
    ("reliable", [sys.executable, CLIENTS / "python_reliable.py"], "websocket.v1", "applied"),
    ("grpc", [sys.executable, CLIENTS / "python_grpc.py"], "grpc", "applied"),
]


class Run:
    def __init__(self, work, ending):
        self.work, self.ending = work, ending
        self.port = free_port()
        self.certificate = work / "data/certificate.pem"

    def start(self, name, command, **options):
        process = Process(name, command, self.work / f"{name}.log", **options)
        self.ending.callback(process.kill)
        return process

    def start_service(self):
        settings = {
            "LIMITS__ATTEMPTS_PER_MINUTE": "1000",
            "SERVER__TRUSTED_PROXIES": "127.0.0.1",
            "SERVER__PROXY_PROTOCOL_FROM": BALANCER,
        }
        environment = {f"GATEWAY_EVENTS__{name}": value for name, value in settings.items()}
        environment |= {"PATH": os.environ["PATH"], "HOME": str(self.work)}
        command = [PROGRAM, "serve", "--data-dir", self.work / "data"]
        command += ["--listen", f"127.0.0.1:{self.port}", "--admin-token-file", self.work / "token"]
        service = self.start("service", command, env=environment)
        token = self.work / "token"
        until("the service listens", lambda: listens(self.port) and token.exists(), service)
        return service

    def configure(self, name, replacements):
        """Writes a configuration of config/ with other addresses and files."""
        text = (CONFIG / name).read_text()
        for place, here in replacements.items():
            if place not in text:
                raise SystemExit(f"config/{name} has no {place!r}")
            text = text.replace(place, here)
        path = self.work / name
        path.write_text(text)
        return path

    def start_proxies(self):
        """Returns the port of each way to the service."""
        both = self.work / "pair.pem"
        both.write_text(self.certificate.read_text() + self.key().read_text())
        nodes = {"node-1:8443": f"127.0.0.1:{self.port}"}
        ports = {"direct": self.port}

        ports["nginx"] = free_port()
        temporary = {f"/var/lib/nginx/{it}": f"{self.work}/{it}" for it in ["body", "proxy", "fastcgi", "uwsgi", "scgi"]}
        path = self.configure("nginx.conf", nodes | temporary | {
            "server node-2:8443;": "",
            "pid /run/nginx.pid": f"pid {self.work}/nginx.pid",
            "/var/log/nginx/error.log": f"{self.work}/nginx-error.log",
            "listen 0.0.0.0:8443": f"listen 127.0.0.1:{ports['nginx']}",
            "/etc/nginx/certificate.pem": str(self.certificate),
            "/etc/nginx/private-key.pem": str(self.key()),
            "/etc/nginx/nodes.pem": str(self.certificate),
        })
        nginx = self.start("nginx", ["nginx", "-e", "stderr", "-c", path, "-g", "daemon off; master_process off;"])

        ports["haproxy"] = free_port()
        path = self.configure("haproxy-http.cfg", nodes | {
            "    server two node-2:8443\n": "",
            "bind 0.0.0.0:8443": f"bind 127.0.0.1:{ports['haproxy']}",
            "/etc/haproxy/balancer.pem": str(both),
            "/etc/haproxy/nodes.pem": str(self.certificate),
        })
        haproxy = self.start("haproxy", ["haproxy", "-db", "-f", path])

        ports["haproxy-tcp"] = free_port()
        path = self.configure("haproxy.cfg", nodes | {
            "    server two node-2:8443\n": "",
            "bind 0.0.0.0:8443": f"bind 127.0.0.1:{ports['haproxy-tcp']}",
            "source 172.30.0.10": f"source {BALANCER}",
            "/run/haproxy/admin.sock": f"{self.work}/admin.sock",
            "/etc/haproxy/nodes.pem": str(self.certificate),
        })
        tcp = self.start("haproxy-tcp", ["haproxy", "-db", "-f", path])
        for way, port in ports.items():
            until(f"{way} listens", lambda port=port: listens(port), nginx, haproxy, tcp)
        return ports, [nginx, haproxy, tcp]

    def key(self):
        return next(it for it in (self.work / "data").glob("*.pem") if it != self.certificate)


class Client:
    """A foreign client, which is a gateway of its own."""

    def __init__(self, run, admin, kind, way, port):
        name, command, self.transport, self.outcome = kind
        self.name = f"{name}-{way}"
        self.gateway, key = admin.register(self.name)
        self.events = admin.publish(self.gateway, range(1, BEFORE + 1))
        self.environment = {
            "ORIGIN": f"https://localhost:{port}",
            "CA": str(run.certificate),
            "KEY": key,
            "CONFIRM_FIRST": str(CONFIRMED_BEFORE),
            "TOTAL": str(TOTAL),
            "NODE_EXTRA_CA_CERTS": str(run.certificate),
            "NODE_MODULES": str(NODE_MODULES),
            # Python's websockets waits five seconds by default.
            "WEBSOCKETS_BACKOFF_INITIAL_DELAY": "1",
            "WEBSOCKETS_BACKOFF_MIN_DELAY": "0.5",
            "WEBSOCKETS_BACKOFF_MAX_DELAY": "2",
        }
        # The plain client confirms all that it reads.
        self.confirmed_before = BEFORE if self.outcome == "received" else CONFIRMED_BEFORE
        self.process = run.start(
            self.name, command, env=os.environ | self.environment, stdin=subprocess.PIPE
        )

    def has_confirmed(self, admin, sequence):
        return admin.confirmed(self.gateway) >= sequence

    def ended(self):
        return self.process.child.poll() is not None

    def check(self, admin):
        """Compares the ledger with what was published."""
        delivered = admin.deliveries(self.gateway, "delivered")
        delivered.sort(key=lambda it: it["sequence"])
        found = [(it["sequence"], it["eventId"]) for it in delivered]
        if found != list(enumerate(self.events, start=1)):
            raise SystemExit(f"{self.name}: {self.events} was published, {found} was delivered")
        for delivery in delivered[:CONFIRMED_BEFORE] + delivered[BEFORE:]:
            outcomes = [attempt["outcome"] for attempt in delivery["attempts"]]
            if self.outcome not in outcomes:
                raise SystemExit(f"{self.name}: {delivery}")
        if pending := admin.deliveries(self.gateway, "pending"):
            raise SystemExit(f"{self.name}: {pending} is pending")
        for delivery in admin.deliveries(self.gateway, "failed"):
            if not delivery["deliveredSince"]:
                raise SystemExit(f"{self.name}: {delivery}")
        connections = admin.connections(self.gateway)
        if len(connections) < 2 or {it["transport"] for it in connections} != {self.transport}:
            raise SystemExit(f"{self.name}: {connections}")
        print(f"{self.name}: {self.process.output().strip()}, {len(connections)} connections")


def run(work, ending):
    here = Run(work, ending)
    service = here.start_service()
    admin = Admin(f"https://localhost:{here.port}", here.certificate, here.work / "token")
    until("the service is ready", admin.is_ready, service)
    cloudevents_round_trip.check(admin)
    cloudevents_round_trip.check_agent(here, admin, PROGRAM, until)
    ways, proxies = here.start_proxies()
    clients = [Client(here, admin, kind, way, port) for kind in KINDS for way, port in ways.items()]
    processes = [client.process for client in clients] + proxies
    for client in clients:
        until(
            f"{client.name} confirms {client.confirmed_before} events",
            lambda client=client: client.has_confirmed(admin, client.confirmed_before),
            service,
            *processes,
        )
    service.kill()
    service = here.start_service()
    until("the service is ready again", admin.is_ready, service)
    for client in clients:
        client.events += admin.publish(client.gateway, range(BEFORE + 1, TOTAL + 1))
    for client in clients:
        until(
            f"{client.name} confirms {TOTAL} events",
            lambda client=client: client.has_confirmed(admin, TOTAL),
            service,
            *processes,
        )
        client.process.child.stdin.close()
    for client in clients:
        until(f"{client.name} ends", client.ended, service, *processes)
        client.check(admin)


def main():
    # Children are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="foreign-clients-") as work, contextlib.ExitStack() as ending:
        run(Path(work), ending)
    print(f"all foreign clients have received and confirmed their events, in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
