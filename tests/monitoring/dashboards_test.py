"""The dashboards are what make_dashboards.py writes, keep to Grafana's published schema, and hang together; so do the
files that provision them and the compose file that runs them. The queries are put to a real Prometheus in
tests/e2e/prometheus_test.py."""

import itertools
import json
import re
import subprocess
import sys
import unittest

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import units
from grafana_foundation_sdk.models.dashboard import Dashboard

import monitoring
from monitoring import DEPLOY

UIDS = {"service": "moepool-service", "pool": "moepool-pool", "experts": "moepool-experts"}  # links hang on them
UNITS = {value for value in vars(units).values() if isinstance(value, str)}
KINDS = {"row", "timeseries", "stat", "table", "heatmap", "bargauge"}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# What Grafana's source for Prometheus reads of an annotation beside what the schema has.
NOT_IN_SCHEMA = re.compile(r"\.annotations\.list\[\d+\]\.(step|titleFormat|textFormat|useValueForTime)")


def missing(wanted, found, path=""):
    """Paths in `wanted` that are not in `found`, or not the same."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        return [p for key, value in wanted.items() for p in missing(value, found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [p for i, pair in enumerate(zip(wanted, found)) for p in missing(*pair, f"{path}[{i}]")]
    return [] if wanted == found else [path]


def queries(panel):
    return [target["expr"] for target in panel["targets"]]


class DashboardsTest(unittest.TestCase):
    def setUp(self):
        self.boards = monitoring.dashboards()

    def all_panels(self):
        return [(f"{name}: {panel['title']}", panel) for name, board in self.boards.items()
                for panel in monitoring.panels(board)]

    def test_they_are_what_the_program_writes(self):
        made = subprocess.run([sys.executable, "-B", DEPLOY / "grafana" / "make_dashboards.py", "--check"], check=False,
                              stderr=subprocess.PIPE, text=True)
        self.assertEqual(made.returncode, 0, made.stderr)

    def test_grafanas_schema_knows_all_that_is_in_them(self):
        plugins.register_default_plugins()
        for name, board in self.boards.items():
            read = json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder))
            self.assertEqual([p for p in missing(board, read) if not NOT_IN_SCHEMA.fullmatch(p)], [], name)
            self.assertEqual(board["schemaVersion"], Dashboard().schema_version)

    def test_names_and_numbers(self):
        self.assertEqual({name: board["uid"] for name, board in self.boards.items()}, UIDS)
        for name, board in self.boards.items():
            ids = [panel["id"] for panel in board["panels"]]
            self.assertEqual(len(ids), len(set(ids)), name)
            titles = [panel["title"] for panel in monitoring.panels(board)]
            self.assertEqual(len(titles), len(set(titles)), name)
            self.assertLessEqual({panel["type"] for panel in board["panels"]}, KINDS)
            self.assertNotIn("id", board, "numbers are the installation's")

    def test_panels_lie_beside_one_another(self):
        for name, board in self.boards.items():
            cells = [(panel["title"], x, y) for panel in board["panels"] for place in [panel["gridPos"]]
                     for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])]
            self.assertTrue(all(0 <= x < 24 for _, x, _ in cells), name)
            for (_, group) in itertools.groupby(sorted(cells, key=lambda c: c[1:]), key=lambda c: c[1:]):
                self.assertEqual(len(set(title for title, _, _ in group)), 1, name)

    def test_panels_are_complete(self):
        for where, panel in self.all_panels():
            self.assertTrue(panel["description"].endswith("."), where)
            defaults = panel["fieldConfig"]["defaults"]
            self.assertIn(defaults["unit"], UNITS, where)
            self.assertTrue(defaults["thresholds"]["steps"], where)
            self.assertTrue(queries(panel), where)
            self.assertEqual(panel["datasource"], SOURCE, where)
            refs = [target["refId"] for target in panel["targets"]]
            self.assertEqual(len(refs), len(set(refs)), where)
            for target in panel["targets"]:
                self.assertEqual(target["datasource"], SOURCE, where)
                self.assertNotEqual(target["instant"], target["range"], where)

    def test_variables_are_defined_and_used(self):
        for name, board in self.boards.items():
            variables = {v["name"]: v for v in board["templating"]["list"]}
            self.assertEqual(list(variables)[:2], ["datasource", "pool"], name)
            self.assertEqual(variables["datasource"]["type"], "datasource")
            used = set(re.findall(r"\$\{?(\w+)", json.dumps([board["panels"], board["annotations"], board["templating"]])))
            own = {word for word in used if not word.startswith("__") and not word.isdigit()}
            self.assertEqual(own, set(variables), name)
            for variable in list(variables.values())[1:]:
                self.assertEqual(variable["datasource"], SOURCE)
                self.assertTrue(variable["query"]["query"].startswith("label_values("))
                self.assertEqual(variable["allValue"], ".*")

    def test_queries_choose_by_the_variables(self):
        values = {v: "x" for v in ("pool", "instance", "worker", "layer")} | monitoring.GRAFANA_VARIABLES
        for where, panel in self.all_panels():
            for query in queries(panel):
                found = monitoring.selectors(monitoring.substitute(query, values))
                self.assertTrue(found, where)
                for metric, labels in found:
                    self.assertTrue(metric.startswith("moepool_"), where)
                    self.assertIn(("pool", "=~", "x"), labels, where)

    def test_what_is_shown_of_gpus_is_documented(self):
        """The other metrics are compared with those of live processes (tests/e2e)."""
        text = (DEPLOY.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| `(moepool_gpu_\w+)` \| gauge \|([^|]*)\|", text, re.M))
        shown = set()
        for where, panel in self.all_panels():
            for query in queries(panel):
                if "moepool_gpu_" not in query:
                    continue
                plain = monitoring.substitute(query, {"pool": "x"})
                for metric, _ in monitoring.selectors(plain):
                    self.assertIn(metric, rows, where)
                    self.assertLessEqual(monitoring.grouping_labels(plain) - {"instance", "pool"},
                                         set(re.findall(r"`(\w+)`", rows[metric])), where)
                    shown.add(metric)
        self.assertEqual(set(rows) - shown, {"moepool_gpu_info"})

    def test_provisioning_names_what_the_compose_file_mounts(self):
        provisioning = DEPLOY / "grafana" / "provisioning"
        compose = monitoring.read_yaml(DEPLOY / "compose" / "monitoring.yaml")
        grafana = compose["services"]["grafana"]
        mounts = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
        self.assertEqual(mounts["/etc/grafana/provisioning"], "../grafana/provisioning")
        for provider in monitoring.read_yaml(provisioning / "dashboards" / "moepool.yaml")["providers"]:
            self.assertEqual(mounts[provider["options"]["path"]], "../grafana/dashboards")
        for source in monitoring.read_yaml(provisioning / "datasources" / "prometheus.yaml")["datasources"]:
            host = grafana["environment"][source["url"].lstrip("$")].removeprefix("http://").split(":")[0]
            self.assertIn(host, compose["services"])

    def test_images_are_pinned_and_mounts_exist(self):
        compose = monitoring.read_yaml(DEPLOY / "compose" / "monitoring.yaml")
        for name, service in compose["services"].items():
            self.assertRegex(service["image"], r"^[\w./-]+:v?\d+\.\d+\.\d+$", name)
            for volume in service["volumes"]:
                source = volume.split(":")[0]
                if source.startswith("."):
                    self.assertTrue((DEPLOY / "compose" / source).exists(), volume)
                else:
                    self.assertIn(source, compose["volumes"])
            for port in service["ports"]:
                self.assertTrue(port.startswith("127.0.0.1:"), port)


if __name__ == "__main__":
    unittest.main(verbosity=2)
