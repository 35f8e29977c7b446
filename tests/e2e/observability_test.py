"""/health, /ready and /metrics, and logs: complete, well formed, and without a word of a prompt or an answer."""

import json
import pathlib
import re
import signal
import subprocess
import unittest

import cluster
from cluster import E2eTest

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
NAME = r"[a-zA-Z_][a-zA-Z0-9_]*"
SAMPLE = re.compile(rf'({NAME})(\{{{NAME}="(?:[^"\\]|\\.)*"(?:,{NAME}="(?:[^"\\]|\\.)*")*\}})? (\S+)( \d+)?')
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}


def parse_metrics(text):
    """{name with labels: value}; anything that is not the text format raises."""
    kinds, helped, values, family = {}, set(), {}, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split(" ", 3)[2]
            if family in helped:
                raise ValueError(f"HELP of {family} twice")
            helped.add(family)
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name in kinds or name != family or kind not in ("counter", "gauge", "histogram", "summary", "untyped"):
                raise ValueError(f"bad or second {line!r}")
            kinds[name] = kind
        elif line:
            match = SAMPLE.fullmatch(line)
            if match is None:
                raise ValueError(f"not a sample: {line!r}")
            name, labels, value = match.group(1, 2, 3)
            allowed = [family + suffix for suffix in SUFFIXES.get(kinds.get(family), ("",))]
            if family not in kinds or name not in allowed:
                raise ValueError(f"{line!r} under TYPE of {family}")
            if name + (labels or "") in values:
                raise ValueError(f"{line!r} twice")
            values[name + (labels or "")] = float(value)
    for name, kind in kinds.items():
        if not re.fullmatch(rf"(?:moepool|exposer|process)_{NAME}", name):
            raise ValueError(f"{name} is not named as the others")
        if kind == "counter" and not name.endswith("_total"):
            raise ValueError(f"counter {name} does not end in _total")
    return values


def exported(text):
    """{name: (type, labels)} of what a process exports, but for what its HTTP server adds."""
    found, name = {}, None
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if not name.startswith("exposer_"):
                found[name] = (kind, set())
        elif line and not line.startswith("#") and name in found:
            found[name][1].update(set(re.findall(rf'[{{,]({NAME})="', line)) - {"le"})
    return found


def documented():
    """{heading: {name: (type, labels)}} of docs/metrics.md."""
    tables, heading = {}, None
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            heading = line[3:]
        row = re.fullmatch(r"\| `(\w+)` \| (\w+) \|([^|]*)\| .+ \|", line)
        if row:
            tables.setdefault(heading, {})[row.group(1)] = (row.group(2), set(re.findall(r"`(\w+)`", row.group(3))))
    return tables


class ObservabilityTest(E2eTest):
    def exposition(self, process):
        ready = process.wait_ready()
        answer = cluster.Client(ready.get("http_address") or ready["metrics_address"], None).get("/metrics")
        self.assertEqual(answer.status, 200)
        return answer.body.decode()

    def test_metrics_are_those_of_the_documentation_and_in_good_form(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        pool.client.infer("the cat", max_tokens=5)
        tables = documented()
        for heading, process in (("Gateway", pool.gateway), ("Router", pool.router), ("Expert worker", pool.workers[0])):
            text = self.exposition(process)
            self.assertEqual(exported(text), {**tables["Every process"], **tables[heading]}, heading)
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, check=False, stdout=subprocess.PIPE,
                                     stderr=subprocess.STDOUT, text=True)
            # What the library that serves them adds is not ours to name.
            complaints = [line for line in checked.stdout.splitlines() if not line.startswith("exposer_")]
            self.assertEqual(complaints, [], heading)
            self.assertIn(checked.returncode, (0, 3), heading)  # 3: it has complained

    def test_experts_are_left_out_where_there_are_too_many(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1, router_flags=("--max-expert-series", "63"))
        pool.client.infer("the cat", max_tokens=5)
        self.assertNotIn("moepool_expert_tokens_total", exported(self.exposition(pool.router)))
        self.assertIn("moepool_layer_load_ratio", exported(self.exposition(pool.router)))

    def test_series_of_a_worker_go_with_it(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        pool.client.infer("the cat", max_tokens=5)
        names = {worker["name"] for worker in pool.status()["workers"]}

        def shown():
            return set(re.findall(r'worker="([^"]*)"', self.exposition(pool.router)))
        self.assertEqual(shown(), names)
        pool.workers[1].signal(signal.SIGTERM)
        self.assertEqual(pool.workers[1].wait_exit(), 0)
        cluster.wait_for(lambda: len(shown()) == 1, "the worker's series to go")
        self.assertLess(shown(), names)

    def test_a_slow_request_is_logged_by_gateway_and_router(self):
        slow = ("--slow-request-ms", "0.001")
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2, router_flags=slow, gateway_flags=slow)
        trace = "0af7651916cd43dd8448eb211c80319c"
        answer = pool.client.request(
            "POST", "/infer", json.dumps({"prompt": "the cat", "max_tokens": 9}),
            {"Content-Type": "application/json", "X-Request-Id": "req-7",
             "traceparent": f"00-{trace}-b7ad6b7169203331-01"})
        self.assertEqual(answer.status, 200, answer)
        usage = answer.json()["usage"]
        pool.wait_idle()
        workers = {worker["name"] for worker in pool.status()["workers"]}
        for process in (pool.gateway, pool.router):
            def lines(process=process):
                return [json.loads(line) for line in process.log().splitlines() if '"slow request"' in line]
            cluster.wait_for(lines, f"the line of {process.label}")
            line = lines()[0]
            self.assertEqual(line["level"], "warning")
            self.assertEqual(line["request_id"], "req-7")
            self.assertEqual(line["trace_id"], trace)
            self.assertEqual(line["status"], "OK")
            for count in ("prompt_tokens", "completion_tokens"):
                self.assertEqual(line[count], usage[count])
            for duration in ("queue_ms", "prefill_ms", "decode_ms"):
                self.assertLessEqual(line[duration], line["total_ms"])
            self.assertEqual((line["preemptions"], line["retries"]), (0, 0))
            self.assertIn(line["slowest_worker"], workers)

    def test_no_request_is_slow_by_default(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        pool.client.infer("the cat", max_tokens=5)
        pool.wait_idle()
        for process in (pool.gateway, pool.router):
            self.assertNotIn("slow request", process.log())

    def metrics(self, process):
        ready = process.wait_ready()
        answer = cluster.Client(ready.get("http_address") or ready["metrics_address"], None).get("/metrics")
        self.assertEqual(answer.status, 200)
        self.assertTrue(answer.headers["Content-Type"].startswith("text/plain"), answer.headers["Content-Type"])
        return parse_metrics(answer.body.decode())

    def test_metrics_follow_requests(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2, router_flags=("--heartbeat", "0.05"))
        processes = {"gateway": pool.gateway, "router": pool.router, "worker": pool.workers[0]}
        before = {name: self.metrics(p) for name, p in processes.items()}
        answers = [pool.client.infer("the cat", max_tokens=20, temperature=1, seed=i) for i in range(3)]
        pool.client.post("/infer", {"prompt": "a", "top_k": -1})
        pool.wait_idle()
        # A worker brings its numbers up to date once a second.
        cluster.wait_for(lambda: self.metrics(pool.workers[0])["moepool_worker_dispatches_total"] >
                         before["worker"]["moepool_worker_dispatches_total"], "the worker's dispatches to be counted")
        after = {name: self.metrics(p) for name, p in processes.items()}

        def grown(process, sample):
            self.assertIn(sample, after[process])
            return after[process][sample] - before[process].get(sample, 0)
        generated = sum(a["usage"]["completion_tokens"] for a in answers)
        self.assertEqual(grown("gateway", "moepool_generation_tokens_total"), generated)
        self.assertEqual(grown("gateway", "moepool_prompt_tokens_total"),
                         sum(a["usage"]["prompt_tokens"] for a in answers))
        self.assertEqual(sum(grown("gateway", f'moepool_request_success_total{{finished_reason="{reason}"}}')
                             for reason in ("stop", "length")), 3)
        self.assertEqual(grown("gateway", "moepool_time_to_first_token_seconds_count"), 3)
        self.assertEqual(grown("gateway", 'moepool_time_to_first_token_seconds_bucket{le="+Inf"}'), 3)
        self.assertEqual(after["gateway"]["moepool_num_requests_running"], 0)
        self.assertEqual(after["gateway"]["moepool_num_requests_waiting"], 0)
        self.assertEqual(grown("router", "moepool_sequences_finished_total"), 3)
        self.assertEqual(grown("router", "moepool_sequences_failed_total"), 0)
        self.assertGreaterEqual(grown("router", "moepool_decode_rows_total"), generated - 3)
        self.assertEqual(grown("router", "moepool_prefill_rows_total") +
                         grown("router", "moepool_prefix_cache_hits_total"),
                         sum(a["usage"]["prompt_tokens"] for a in answers))
        self.assertGreater(grown("router", "moepool_exchange_dispatches_total"), 0)
        self.assertEqual(after["router"]["moepool_pool_ready"], 1)
        self.assertEqual(after["router"]["moepool_kv_cache_usage_ratio"], 0)
        self.assertGreater(grown("worker", "moepool_worker_dispatches_total"), 0)
        self.assertEqual(after["worker"]["moepool_worker_joined"], 1)
        self.assertEqual(after["worker"]["moepool_worker_experts"], 32)

    def test_health_and_readiness(self):
        gateway = self.start("moepool-gateway", "--router", "127.0.0.1:1", "--http-address", "127.0.0.1:0",
                             "--grpc-address", "127.0.0.1:0")
        ready = gateway.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        self.assertEqual(client.get("/health").status, 200)
        self.check_error(client.get("/ready"), 503)
        answer = client.post("/infer", {"prompt": "hello"})
        self.check_error(answer, 503)
        self.assertTrue(answer.headers["Retry-After"])
        self.assertEqual(self.metrics(gateway)["moepool_num_requests_running"], 0)

        pool = self.start_cluster(cluster.tiny_mixtral(), workers=1)
        self.assertEqual(pool.client.get("/health").status, 200)
        self.assertEqual(pool.client.get("/ready").status, 200)
        self.assertEqual(pool.client.request("HEAD", "/ready").body, b"")
        models = pool.client.get("/v1/models").json()["data"]
        self.assertEqual([m["id"] for m in models], ["tiny-mixtral"])

    def test_no_word_of_a_prompt_or_an_answer_is_logged(self):
        debug = ("--log-level", "debug")
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2, router_flags=debug, worker_flags=debug,
                                  gateway_flags=debug)
        marker = "Kurosawa-1954"
        words = [marker]
        for fields in ({}, {"raw": True}, {"stop": [marker]}, {"temperature": 1.0, "seed": 4}):
            text = pool.client.infer(f"about {marker}", max_tokens=60, **fields)["text"]
            words += [part for part in re.split(r"[^\x21-\x7e]+", text) if len(part) >= 12]
            pool.client.stream(f"about {marker}", max_tokens=60, **fields).read()
        pool.client.generate(f"about {marker}", "--max-tokens", "20")
        pool.client.post("/tokenize", {"text": marker})
        # What goes wrong is where a prompt would slip out.
        for body in ({"prompt": marker, "top_k": -1}, {"prompt": [marker]}, {"messages": [{"role": marker}]},
                     {"prompt": marker * 2000}, f'{{"prompt": "{marker}"',
                     f'{{"prompt": "{marker}", "max_tokens": 9e}}'):
            answer = pool.client.post("/infer", body)
            self.assertEqual(answer.status, 400, answer)
            self.assertNotIn(marker.encode(), answer.body)
        pool.client.try_generate(marker, "--top-k", "-1")
        pool.stop()
        for process in pool.processes:
            log = process.log() + process.output().decode()
            self.assertTrue(log)
            for word in words:
                self.assertNotIn(word, log, process.label)
            for line in process.log().splitlines():
                fields = json.loads(line)
                self.assertLessEqual({"time", "level", "process", "message"}, set(fields), line)
        requests = [json.loads(line) for line in pool.gateway.log().splitlines() if '"message":"request"' in line]
        self.assertGreaterEqual(len(requests), 9, pool.gateway.log())


if __name__ == "__main__":
    cluster.main()
