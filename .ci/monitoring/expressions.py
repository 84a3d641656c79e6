"""Which metrics, labels and label values an expression of PromQL names."""

import re

TOKEN = re.compile(
    r"""
    (?P<text>"(?:[^"\\]|\\.)*")
    | (?P<name>[A-Za-z_:][A-Za-z0-9_:]*)
    | (?P<number>[0-9][0-9A-Za-z.]*)
    | (?P<operator>=~|!~|!=|==|[<>]=|\S)
    """,
    re.VERBOSE,
)
# Followed by a list of labels.
GROUPING = {"by", "without", "on", "ignoring", "group_left", "group_right"}
WORDS = {"and", "or", "unless", "bool", "offset", "atan2", "inf", "nan"}
# A regular expression that lists values, such as `one|two`.
LISTED = re.compile(r"[\w./ -]+(\|[\w./ -]+)*")


class Expression:
    def __init__(self, text):
        self.text = text
        self.metrics = set()
        # Metric and label.
        self.matched = set()
        # Metric, label and value.
        self.values = set()
        # Labels of results.
        self.grouped = set()
        self.tokens = [(match.lastgroup, match.group()) for match in TOKEN.finditer(text)]
        self.read()

    def token(self, index):
        return self.tokens[index] if index < len(self.tokens) else (None, None)

    def read(self):
        index, metric = 0, None
        while index < len(self.tokens):
            kind, text = self.tokens[index]
            follows = self.token(index + 1)[1]
            if text == "{":
                index = self.read_matchers(index + 1, metric)
            elif text == "[":
                while self.tokens[index][1] != "]":
                    index += 1
            elif kind == "name" and text in GROUPING:
                if follows == "(":
                    index = self.read_grouping(index + 2)
            elif kind == "name" and text.lower() not in WORDS:
                # Not a function or an aggregation.
                if follows not in ("(", "by", "without"):
                    metric = text
                    self.metrics.add(text)
            index += 1

    def read_grouping(self, index):
        while self.tokens[index][1] != ")":
            if self.tokens[index][0] == "name":
                self.grouped.add(self.tokens[index][1])
            index += 1
        return index

    def read_matchers(self, index, metric):
        while self.tokens[index][1] != "}":
            if self.tokens[index][0] == "name":
                label, value = self.tokens[index][1], self.token(index + 2)[1][1:-1]
                self.matched.add((metric, label))
                if LISTED.fullmatch(value):
                    self.values |= {(metric, label, it) for it in value.split("|")}
                index += 2
            index += 1
        return index
