"""A real Prometheus scrapes a running cluster under load. Each query of the dashboards answers with numbers, the rules
are evaluated, and each metric and label that a rule, a dashboard or the runbook names exists and is of the right type."""

import math
import pathlib
import re
import sys
import threading
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "monitoring"))

import cluster
import monitoring
from cluster import LONG_PROMPT, E2eTest, slow_mixtral, wait_for
from prometheus import Alertmanager, Prometheus

# Windows that hold all of the test.
VARIABLES = {"pool": ".*", "instance": ".*", "worker": ".*", "layer": ".*", "__rate_interval": "30m", "__interval": "5s",
             "__range": "30m"}

RUNNING = 4  # sequences in the batch, more than the KV cache has room for
LIMIT = 6  # of requests that the gateway admits: some wait

# Gauges that are 0 again when a request has ended, which may be before a scrape.
MOMENTARY = ("moepool_num_requests_running", "moepool_num_requests_waiting", "moepool_admission_queue_tokens",
             "moepool_num_sequences_running", "moepool_num_sequences_waiting", "moepool_kv_cache_usage_ratio",
             "moepool_worker_busy_ratio")

# Queries that answer with 0 alone, as they should here; all others have to show something else at some time.
RIGHTLY_ZERO = {
    "pool: Refused: {{instance}} refused": "router and workers agree",
    "pool: Refused: {{instance}} unreadable": "likewise",
    "pool: Workers: outside {{pool}}": "a worker that is gone is not outside",
}
# Those that do so on most machines.
PERHAPS_ZERO = {
    "pool: Asleep: {{pool}}": "where processes of one session get in one another's way depends on the machine",
}

# Alerts that the test provokes. Others need what would take too long here; tests of their own make them fire.
PROVOKED = {"MoepoolTargetDown", "MoepoolWorkerLost", "MoepoolPoolNotReady", "MoepoolRequestsRefused",
            "MoepoolErrorBudgetFastBurn"}

# Labels of the targets, and of alerts.
OTHER_LABELS = {"job", "instance", "pool", "alertname", "alertstate", "severity"}
SUFFIXES = ("_bucket", "_sum", "_count")
CHATTING = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


def recorded():
    return {rule["record"] for rule in monitoring.rules() if "record" in rule}


def without_gpus(queries):
    """What there is of GPUs is not exported where there are none; tests/monitoring looks at those."""
    return [(where, query) for where, query in queries if "moepool_gpu_" not in query]


def dashboard_queries():
    """[(where, query)] of panels, annotations and variables, with Grafana's variables replaced."""
    found = []
    for name, board in monitoring.dashboards().items():
        for panel in monitoring.panels(board):
            found += [(f"{name}: {panel['title']}: {target['legendFormat']}", target["expr"]) for target in panel["targets"]]
        found += [(f"{name}: marks {mark['name']}", mark["expr"]) for mark in board["annotations"]["list"] if "expr" in mark]
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
                found.append((f"{name}: variable {variable['name']}", f"count by ({label}) ({selector})"))
    return without_gpus([(where, monitoring.substitute(query, VARIABLES)) for where, query in found])


def rule_queries():
    return [(rule.get("alert") or rule["record"], rule["expr"]) for rule in monitoring.rules()]


def in_parallel(calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class PrometheusTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(
            slow_mixtral(), workers=2, kv_memory="2MiB", worker_flags=("--memory-limit", "64MiB"),
            router_flags=("--context-tokens", "512", "--max-running", str(RUNNING), "--holder-timeout", "1"),
            gateway_flags=("--max-requests", str(LIMIT)))
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.alertmanager = Alertmanager(monitoring.DEPLOY)
        cls.addClassCleanup(cls.alertmanager.stop)
        cls.prometheus = Prometheus(monitoring.DEPLOY, alertmanager=cls.alertmanager, targets={
            "moepool-gateway": [cls.pool.gateway.wait_ready()["http_address"]],
            "moepool-router": [cls.pool.router.wait_ready()["metrics_address"]],
            "moepool-worker": [worker.wait_ready()["metrics_address"] for worker in cls.pool.workers]})
        cls.addClassCleanup(cls.prometheus.stop)
        cls.begin = cls.prometheus.now()
        # Counters have to be seen before they grow.
        cls.wait_scraped(4)
        cls.serve()
        wait_for(cls.overload, f"a scrape that meets {MOMENTARY} above 0")
        cls.wait_scraped(4)
        # Prometheus keeps it of what the last scrape showed, and some metrics go with the workers.
        cls.metadata = cls.prometheus.ask("metadata")
        cls.lose_workers()
        cls.fail_until_fired()
        cls.end = cls.prometheus.now()

    @classmethod
    def wait_scraped(cls, targets):
        """Until all that has happened so far is in two scrapes of each process that is left."""
        then = cls.prometheus.now()

        def scraped():
            seconds = int(cls.prometheus.now() - then)
            return seconds > 0 and targets == len(
                cls.prometheus.query(f'sum_over_time(up{{job=~"moepool.+"}}[{seconds}s]) >= 2'))
        try:
            wait_for(scraped, f"two scrapes of {targets} processes")
        except AssertionError as error:
            raise AssertionError(f"{error}; {cls.prometheus.target_errors()}") from None

    @classmethod
    def serve(cls):
        """A request of each kind that ends by itself."""
        client = cls.pool.client
        text = client.infer(LONG_PROMPT, max_tokens=40, temperature=0.8, seed=1)["text"]
        client.infer(LONG_PROMPT, max_tokens=40, temperature=0.8, seed=1, stop=[text[10:12]])
        client.infer(LONG_PROMPT * 8, max_tokens=5, n=2)
        client.infer(LONG_PROMPT * 8, max_tokens=5)
        client.stream(LONG_PROMPT, max_tokens=30, ignore_eos=True).read()
        client.post("/v1/chat/completions", CHATTING)
        client.post("/v1/chat/completions", {**CHATTING, "response_format": {"type": "json_object"}})
        client.post("/infer", {"prompt": "a", "max_tokens": 8, "response_format": {"type": "json_object"}})
        client.post("/infer", {"prompt": "a", "top_k": -1})
        client.get("/no/such/path")
        stream = client.stream(LONG_PROMPT, max_tokens=400, ignore_eos=True).read(pieces=3)
        stream.hang_up()
        cls.pool.wait_idle()

    @classmethod
    def overload(cls):
        """More requests than the gateway admits and more tokens than the KV cache holds. Whether a scrape has met it."""
        in_parallel([lambda i=i: cls.pool.client.post("/infer", {"prompt": f"{i} {LONG_PROMPT}", "max_tokens": 300,
                                                                 "ignore_eos": True}) for i in range(2 * LIMIT)])
        cls.pool.wait_idle()
        return all(cls.prometheus.query(f"max_over_time({metric}[30m]) > 0") for metric in MOMENTARY)

    @classmethod
    def lose_workers(cls):
        """One in mid-stream, whose experts the other takes over, and then that one."""
        first, second = cls.pool.workers
        stream = cls.pool.client.stream(LONG_PROMPT, max_tokens=400, ignore_eos=True).read(pieces=10)
        first.kill()
        stream.read()
        if stream.error is not None:
            raise AssertionError(f"a lost worker ended the stream: {stream.error}")
        cls.pool.wait_status(lambda s: s["ready"] and len(s["workers"]) == 1, "one worker in the pool")
        cls.wait_scraped(3)
        stream = cls.pool.client.stream(LONG_PROMPT, max_tokens=400, ignore_eos=True).read(pieces=10)
        second.kill()
        stream.read()
        if stream.error is None:
            raise AssertionError("a stream goes on without workers")
        for _ in range(5):
            cls.pool.client.post("/infer", {"prompt": "a"})
        cls.wait_scraped(2)

    @classmethod
    def fail_until_fired(cls):
        """The more requests the overload took, the more have to fail before that is a large part of them."""
        def all_fired():
            if PROVOKED <= cls.fired():
                return True
            cls.pool.client.post("/infer", {"prompt": "a"})
            return False
        try:
            wait_for(all_fired, f"{sorted(PROVOKED)} to fire")
        except AssertionError as error:
            raise AssertionError(f"{error}; {sorted(PROVOKED - cls.fired())} did not") from None

    @classmethod
    def fired(cls):
        return {labels["alertname"] for labels, _ in
                cls.prometheus.query('last_over_time(ALERTS{alertstate="firing"}[30m])')}

    def history(self, query):
        return [values for _, values in self.prometheus.history(query, self.begin, self.end)]

    def test_each_query_of_the_dashboards_answers_with_numbers(self):
        zero = set()
        for where, query in dashboard_queries():
            with self.subTest(query=where):
                numbers = [v for values in self.history(query) for v in values if math.isfinite(v)]
                self.assertTrue(numbers, query)
                if not any(numbers):
                    zero.add(where)
        self.assertEqual(zero - set(PERHAPS_ZERO), set(RIGHTLY_ZERO))

    def test_each_rule_is_evaluated(self):
        groups = self.prometheus.ask("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        self.assertEqual({rule["name"] for rule in rules}, {name for name, _ in rule_queries()})
        for rule in rules:
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
        for name in recorded():
            numbers = [v for values in self.history(name) for v in values if math.isfinite(v)]
            self.assertTrue(numbers, name)

    def test_what_alerts_choose_by_is_there(self):
        """An alert is empty in good times. What it looks at must not be."""
        for name, query in without_gpus(rule_queries()):
            for metric, labels in monitoring.selectors(query):
                chosen = ", ".join(f"{label}{operator}\"{value}\"" for label, operator, value in labels)
                with self.subTest(rule=name, metric=metric):
                    self.assertTrue(self.history(f"{metric}{{{chosen}}}"))

    def test_alertmanager_passes_on_the_cause_and_not_what_follows_from_it(self):
        alerts = {}

        def arrived():
            alerts.update(self.alertmanager.alerts())
            return {"MoepoolPoolNotReady", "MoepoolErrorBudgetFastBurn"} <= set(alerts) and \
                alerts["MoepoolErrorBudgetFastBurn"]["status"]["inhibitedBy"]
        wait_for(arrived, "an alert of what follows to be held back")
        cause = alerts["MoepoolPoolNotReady"]
        self.assertEqual(cause["status"]["state"], "active")
        self.assertEqual([receiver["name"] for receiver in cause["receivers"]], ["pager"])
        self.assertEqual(alerts["MoepoolErrorBudgetFastBurn"]["status"]["inhibitedBy"], [cause["fingerprint"]])

    def test_metrics_exist_and_are_of_the_right_type(self):
        kinds = {name: {entry["type"] for entry in entries} for name, entries in self.metadata.items()}
        known = recorded() | {"up", "ALERTS"}

        def kind(metric):
            base = next((metric.removesuffix(s) for s in SUFFIXES if metric.endswith(s)), metric)
            if kinds.get(base) == {"histogram"} and base != metric:
                return "histogram"
            found = kinds.get(metric, set())
            self.assertEqual(len(found), 1, f"{metric} is {sorted(found)}")
            return next(iter(found))
        for where, query in dashboard_queries() + without_gpus(rule_queries()):
            rated = monitoring.rated(query)
            for metric, _ in monitoring.selectors(query):
                if metric in known:
                    continue
                with self.subTest(where=where, metric=metric):
                    is_kind = kind(metric)
                    self.assertNotEqual((is_kind, metric in kinds), ("histogram", True), "a histogram without a suffix")
                    self.assertEqual(metric.endswith("_total"), is_kind == "counter")
                    if metric in rated:
                        self.assertNotEqual(is_kind, "gauge", "a gauge has no rate")
                    else:
                        self.assertTrue(is_kind == "gauge" or "count by" in query, "a counter is of use as a rate")
        for metric in re.findall(r"\bmoepool_\w+", monitoring.RUNBOOK.read_text(encoding="utf-8")):
            with self.subTest(where="runbook", metric=metric):
                kind(metric)

    def test_labels_exist(self):
        labels = {}  # of each metric

        def of(metric):
            if metric not in labels:
                series = self.prometheus.ask("series", **{"match[]": metric, "start": self.begin, "end": self.end})
                labels[metric] = {label for one in series for label in one}
            return labels[metric]
        for where, query in dashboard_queries() + rule_queries():
            with self.subTest(where=where):
                found = set()
                for metric, chosen in monitoring.selectors(query):
                    found |= of(metric)
                    self.assertLessEqual({label for label, _, _ in chosen} - OTHER_LABELS, of(metric), metric)
                self.assertLessEqual(monitoring.grouping_labels(query) - OTHER_LABELS, found)


if __name__ == "__main__":
    cluster.main()
