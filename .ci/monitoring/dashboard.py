"""The queries of a dashboard of Grafana, and what would make it look broken."""

import json
import re

# What Grafana sets. The interval of rates is at least four times the interval of scrapes.
VARIABLES = {"$job": "gateway-events", "$instance": ".+", "$__rate_interval": "15s"}

COLUMNS = 24


def cells(place):
    """The cells of the grid that a panel covers."""
    columns = range(place["x"], place["x"] + place["w"])
    rows = range(place["y"], place["y"] + place["h"])
    return [(x, y) for x in columns for y in rows]


class Query:
    def __init__(self, panel, target):
        self.name = f"{panel['title']} (panel {panel['id']}, query {target['refId']})"
        self.legend = re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])
        self.is_instant = target["instant"]
        self.text = target["expr"]
        for variable, value in VARIABLES.items():
            self.text = self.text.replace(variable, value)


class Dashboard:
    def __init__(self, path):
        self.path = path
        self.content = json.loads(path.read_text())
        self.panels = [it for it in self.content["panels"] if it["type"] != "row"]
        self.queries = [Query(panel, target) for panel in self.panels for target in panel["targets"]]

    def complaints(self):
        """What is wrong with it, apart from its queries."""
        ids = [panel["id"] for panel in self.content["panels"]]
        if len(ids) != len(set(ids)):
            yield "two panels have the same id"
        taken = {}
        for panel in self.content["panels"]:
            covered = cells(panel["gridPos"])
            overlapped = {taken[it] for it in covered if it in taken}
            yield from (f"{panel['title']} overlaps with {other}" for other in overlapped)
            if any(x >= COLUMNS for x, _ in covered):
                yield f"{panel['title']} is wider than the dashboard"
            taken.update(dict.fromkeys(covered, panel["title"]))
        for panel in self.panels:
            for source in [panel["datasource"], *(it["datasource"] for it in panel["targets"])]:
                if source != {"type": "prometheus", "uid": "${datasource}"}:
                    yield f"{panel['title']} has a data source of its own: {source}"
        for query in self.queries:
            if "$" in query.text:
                yield f"{query.name} has an unknown variable: {query.text}"
