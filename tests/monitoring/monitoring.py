"""What deploy/ holds for who watches a pool, read for the tests: rules, dashboards, runbook, and all their queries."""

import json
import pathlib
import re

import promql_parser
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
RUNBOOK = DEPLOY / "prometheus" / "RUNBOOK.md"
RUNBOOK_URL = "deploy/prometheus/RUNBOOK.md#"

# What Grafana puts in place of its variables, small enough for a scrape each second.
GRAFANA_VARIABLES = {"__rate_interval": "10s", "__interval": "5s", "__range": "60s"}


def read_yaml(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def rule_files():
    return sorted((DEPLOY / "prometheus" / "rules").glob("*.yaml"))


def rules():
    """[rule] of all files, each as a dictionary with `alert` or `record`."""
    return [rule for path in rule_files() for group in read_yaml(path)["groups"] for rule in group["rules"]]


def dashboards():
    """{name: dashboard}"""
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))}


def panels(dashboard):
    """The panels that show something, those in rows included."""
    found = []
    for panel in dashboard["panels"]:
        found += panels(panel) if panel["type"] == "row" and panel.get("panels") else []
        found += [] if panel["type"] == "row" else [panel]
    return found


def substitute(query, values):
    """The query with Grafana's variables replaced; one without a value raises KeyError."""
    return re.sub(r"\$\{([a-z_]\w*)(?::\w+)?\}|\$([a-z_]\w*)", lambda match: values[match.group(1) or match.group(2)], query)


def selectors(query):
    """[(metric, {label: matcher's value})] of all selectors in a query, as Prometheus' grammar has them."""
    found = []

    def visit(node):
        if isinstance(node, promql_parser.MatrixSelector):
            node = node.vector_selector
        if isinstance(node, promql_parser.VectorSelector):
            labels = {m.name: m.value for m in node.matchers.matchers}
            found.append((node.name or labels.pop("__name__"), labels))
    promql_parser.walk(promql_parser.parse(query), visit)
    return sorted({(name, tuple(sorted(labels.items()))) for name, labels in found})


def grouping_labels(query):
    """The labels of all by(...), on(...) and group_left(...)."""
    found = set()

    def visit(node):
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
            found.update(modifier.labels)
        if isinstance(node, promql_parser.BinaryExpr) and modifier is not None:
            found.update(modifier.group_labels or [])
            if modifier.matching is not None:
                found.update(modifier.matching.labels)
    promql_parser.walk(promql_parser.parse(query), visit)
    return found
