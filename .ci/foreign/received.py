"""What the Python clients have in common: their parameters, and the check of what they receive."""

import os
import ssl

ORIGIN, KEY = os.environ["ORIGIN"], os.environ["KEY"]
BASE = "/api/internal/v1"
TOTAL = int(os.environ["TOTAL"])
CONFIRM_FIRST = int(os.environ["CONFIRM_FIRST"])
CONTEXT = ssl.create_default_context(cafile=os.environ["CA"])


class Received:
    """The events so far: each number once and in order, except for repeats."""

    def __init__(self):
        self.last = self.repeats = self.connections = 0

    def connected(self):
        self.connections += 1

    def insert(self, sequence, payload):
        """Adds an event."""
        assert payload["number"] == sequence, (sequence, payload)
        if sequence <= self.last:
            self.repeats += 1
            return
        assert sequence == self.last + 1, f"{sequence} follows {self.last}"
        self.last = sequence

    def to_confirm(self):
        """The sequence to confirm. On the first connection some events stay unconfirmed."""
        return self.last if self.connections > 1 else min(self.last, CONFIRM_FIRST)

    def is_complete(self):
        return self.last == TOTAL

    def report(self):
        assert self.connections > 1, "was never disconnected"
        print(f"{self.last} events, {self.repeats} repeats")
