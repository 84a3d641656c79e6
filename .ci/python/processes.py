"""The processes that a check starts: each is ended with everything that it has started."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time

# No step takes this long, even on a busy machine.
PATIENCE = 180


class TooLate(SystemExit):
    """Something is not done within `PATIENCE`."""


def until(what, is_done, *processes):
    """Waits until something is done, while these processes run."""
    deadline = time.monotonic() + PATIENCE
    while not is_done():
        for process in processes:
            if process.ended_badly():
                raise SystemExit(f"{process.name} ended while waiting: {what}\n{process.output()}")
        if time.monotonic() > deadline:
            raise TooLate(f"not within {PATIENCE} s: {what}")
        time.sleep(0.05)


class Process:
    """A child in a process group of its own, whose output goes into a file."""

    def __init__(self, name, command, log, **options):
        self.name, self.log = name, log
        with log.open("ab") as file:
            self.child = subprocess.Popen(
                command, stdout=file, stderr=file, start_new_session=True, **options
            )

    def ended_badly(self):
        return self.child.poll() not in (None, 0)

    def output(self):
        return self.log.read_text(errors="replace")[-4000:]

    def kill(self):
        if self.child.poll() is None:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()
        if self.child.stdin:
            self.child.stdin.close()


def free_port():
    """A free port that the system gives to no outgoing connection."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True
