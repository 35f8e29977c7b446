"""Each alert says what an operator needs: severity, texts, a section of the runbook, and tests of both outcomes."""

import re
import unittest

import monitoring
from monitoring import DEPLOY, RUNBOOK, RUNBOOK_URL

PARTS = ["Meaning", "Look", "Do", "Silence"]


def anchor(heading):
    """A heading's anchor as GitHub and GitLab make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


class AlertsTest(unittest.TestCase):
    def setUp(self):
        self.alerts = {rule["alert"]: rule for rule in monitoring.rules() if "alert" in rule}
        text = RUNBOOK.read_text(encoding="utf-8")
        self.sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.M | re.S))

    def test_names_are_unique(self):
        names = [rule.get("alert") or rule["record"] for rule in monitoring.rules()]
        self.assertEqual(len(names), len(set(names)), sorted(names))
        self.assertGreater(len(self.alerts), 10)

    def test_each_alert_is_complete(self):
        for name, alert in self.alerts.items():
            with self.subTest(alert=name):
                self.assertIn(alert["labels"]["severity"], ("critical", "warning", "info"))
                self.assertEqual(set(alert["annotations"]), {"summary", "description", "runbook_url"})
                self.assertEqual(alert["annotations"]["runbook_url"], RUNBOOK_URL + anchor(name))

    def test_each_alert_has_its_section_and_each_section_its_alert(self):
        self.assertEqual(list(self.sections), list(self.alerts))
        for name, section in self.sections.items():
            with self.subTest(alert=name):
                self.assertEqual(re.findall(r"^\*\*(\w+)\.\*\*", section, re.M), PARTS)

    def test_the_runbook_names_alerts_and_panels_that_exist(self):
        text = RUNBOOK.read_text(encoding="utf-8")
        self.assertLessEqual(set(re.findall(r"\bMoepool\w+", text)), set(self.alerts))
        titles = {panel["title"] for board in monitoring.dashboards().values() for panel in monitoring.panels(board)}
        named = set(re.findall(r"(?<!\*)\*([^*\n]+)\*(?!\*)", text))
        self.assertGreater(len(named), 10)
        self.assertLessEqual(named, titles)

    def test_each_alert_is_tested_where_it_fires_and_where_it_does_not(self):
        fires, quiet = set(), set()
        for test in monitoring.read_yaml(DEPLOY / "prometheus" / "tests" / "alerts_test.yaml")["tests"]:
            for case in test["alert_rule_test"]:
                (fires if case["exp_alerts"] else quiet).add(case["alertname"])
        self.assertEqual(fires, set(self.alerts))
        self.assertEqual(quiet, set(self.alerts))

    def test_inhibitions_name_alerts_that_exist(self):
        config = monitoring.read_yaml(DEPLOY / "prometheus" / "alertmanager.yml")
        for rule in config["inhibit_rules"]:
            for matcher in rule["source_matchers"] + rule["target_matchers"]:
                name, operator, value = re.fullmatch(r'(\w+) (=~?) "(.*)"', matcher).groups()
                self.assertEqual(name, "alertname")
                pattern = value if operator == "=~" else re.escape(value)
                self.assertTrue([a for a in self.alerts if re.fullmatch(pattern, a)], matcher)


if __name__ == "__main__":
    unittest.main(verbosity=2)
