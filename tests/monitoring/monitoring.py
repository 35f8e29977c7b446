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
    """[(metric, ((label, operator, value), ...))] of all selectors in a query, as Prometheus' grammar has them."""
    operators = {"MatchOp.Equal": "=", "MatchOp.NotEqual": "!=", "MatchOp.Re": "=~", "MatchOp.NotRe": "!~"}
    found = set()
    for node in nodes(query, promql_parser.VectorSelector):
        matchers = tuple((m.name, operators[str(m.op)], m.value) for m in node.matchers.matchers)
        found.add((node.name, matchers))
    return sorted(found)


def rated(query):
    """The metrics that stand under rate() or increase()."""
    calls = [call for call in nodes(query, promql_parser.Call) if call.func.name in ("rate", "increase")]
    return {call.args[0].vector_selector.name for call in calls}


def nodes(query, kind):
    """All parts of a query that are of that class of the parser."""
    found = []

    def visit(node):
        if isinstance(node, kind):
            found.append(node)
        # The parser's walk takes a range and what it is a range of for one.
        if isinstance(node, promql_parser.MatrixSelector) and kind is promql_parser.VectorSelector:
            found.append(node.vector_selector)
    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def grouping_labels(query):
    """The labels of all by(...), on(...) and group_left(...)."""
    found = set()
    for node in nodes(query, promql_parser.AggregateExpr):
        found.update(node.modifier.labels if node.modifier is not None else [])
    for node in nodes(query, promql_parser.BinaryExpr):
        if node.modifier is not None:
            found.update(node.modifier.group_labels or [])
            found.update(node.modifier.matching.labels if node.modifier.matching is not None else [])
    return found
