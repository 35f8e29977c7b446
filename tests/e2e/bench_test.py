"""`moepool bench engine` and `moepool bench serve`: what their JSON holds, and that it agrees with itself. No times."""

import json

import cluster
from cluster import E2eTest, tool

REPS = ("--reps", "2", "--warmup", "1")


class BenchTest(E2eTest):
    def bench(self, *args):
        made = tool("bench", *args, "--json")
        self.assertEqual(made.returncode, 0, made.stderr.decode())
        return json.loads(made.stdout)

    def refused(self, *args):
        made = tool("bench", *args, "--json")
        self.assertNotEqual(made.returncode, 0)
        self.assertEqual(made.stdout, b"")
        return made.stderr.decode()

    def check_summary(self, summary, reps=2):
        self.assertEqual(set(summary), {"median", "min", "max", "values"})
        self.assertEqual(len(summary["values"]), reps)
        self.assertEqual(summary["min"], min(summary["values"]))
        self.assertEqual(summary["max"], max(summary["values"]))
        self.assertGreater(summary["min"], 0)

    def check_distribution(self, d, count=None):
        self.assertEqual(set(d), {"count", "mean", "p50", "p90", "p99", "min", "max"})
        self.assertLessEqual(0, d["min"])
        self.assertEqual([d[k] for k in ("min", "p50", "p90", "p99", "max")],
                         sorted(d[k] for k in ("min", "p50", "p90", "p99", "max")))
        if count is not None:
            self.assertEqual(d["count"], count)

    def check_engine(self, report, layers, in_process):
        results = {r["phase"]: r for r in report["results"]}
        self.assertEqual(list(results), ["prefill", "decode", "streams", "batching"])
        self.assertEqual(report["reps"], 2)
        self.assertEqual(report["layers"], layers)
        self.assertEqual(len(report["workers"]), 2)
        for result in results.values():
            for name in ("tokens_per_s", "ttft_ms", "continuous_tokens_per_s", "static_tokens_per_s", "ratio"):
                if name in result:
                    self.check_summary(result[name])
            exchange = result["exchange"]
            self.assertEqual(set(exchange), {"layers", "p50_us", "p99_us", "own_p50_us", "own_p99_us"})
            self.assertGreater(exchange["layers"], 0)
            self.assertEqual(exchange["layers"] % layers, 0)
            self.assertLessEqual(exchange["p50_us"], exchange["p99_us"])
            for own in ("own_p50_us", "own_p99_us"):
                self.assertEqual(exchange[own] is None, in_process)
        self.assertEqual(results["prefill"]["prompt_tokens"], 40)
        self.assertEqual(results["prefill"]["exchange"]["layers"], 2 * layers)
        for rate, ttft in zip(results["prefill"]["tokens_per_s"]["values"], results["prefill"]["ttft_ms"]["values"]):
            self.assertAlmostEqual(rate * ttft, 40e3, delta=1)
        self.assertEqual(results["decode"]["tokens"], 9)
        self.assertEqual(results["streams"]["streams"], 3)
        batching = results["batching"]
        self.assertEqual((batching["requests"], batching["running"]), (6, 2))
        self.assertTrue(6 * 4 <= batching["tokens"] <= 6 * 12, batching)
        for name in ("continuous_utilisation", "static_utilisation"):
            self.check_summary(batching[name])
            self.assertLessEqual(batching[name]["max"], 1)

    PHASES = ("--prefill", "40", "--decode", "9", "--streams", "3", "--stream-tokens", "1000", "--batching",
              "--batching-requests", "6", "--batching-running", "2", "--batching-min", "4", "--batching-max", "12")

    def test_engine_in_this_process(self):
        report = self.bench("engine", "--model", str(cluster.tiny_mixtral()), "--workers", "2", "--kv-memory", "16MiB",
                            *self.PHASES, *REPS)
        self.assertEqual((report["bench"], report["target"], report["model"]), ("engine", "in_process", "tiny-mixtral"))
        self.check_engine(report, layers=4, in_process=True)

    def test_engine_and_load_of_a_pool(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2)
        report = self.bench("engine", "--router", pool.address, *self.PHASES, *REPS)
        self.assertEqual(report["target"], pool.address)
        self.check_engine(report, layers=4, in_process=False)

        lengths = ("--input-tokens", "20", "--output-tokens", "7")
        targets = {"moepool": pool.client.http_address, "grpc": pool.client.grpc_address}
        for protocol, target in targets.items():
            for load in (("--clients", "3"), ("--rate", "200", "--requests", "12")):
                report = self.bench("serve", "--protocol", protocol, "--target", target, *lengths, *load,
                                    "--slo-ttft-ms", "1e9")
                with self.subTest(protocol=protocol, load=load):
                    self.assertEqual(report["completed"], 12)
                    self.assertEqual((report["failed"], report["errors"]), (0, {}))
                    self.assertEqual(report["output_tokens"], 12 * 7)
                    self.assertEqual(report["load"], "closed" if "--clients" in load else "open")
                    self.assertAlmostEqual(report["output_tokens_per_s"] * report["duration_s"], 84, places=3)
                    for name in ("ttft_ms", "tpot_ms", "e2e_ms"):
                        self.check_distribution(report[name], 12)
                    self.check_distribution(report["itl_ms"])
                    self.assertEqual(report["slo"]["met"], 12)
                    self.assertGreater(report["client_cpu_s"], 0)
                    # Of 12 requests of 3 clients, the last come when the first have ended.
                    if "--clients" in load:
                        self.assertIsNone(report["together_tokens_per_s"])
        served = pool.metric("moepool_sequences_finished_total")
        self.bench("serve", "--protocol", "grpc", "--target", targets["grpc"], *lengths, "--requests", "2",
                   "--warmup-requests", "1")
        self.assertEqual(pool.metric("moepool_sequences_finished_total"), served + 3)
        self.assertEqual(pool.metric("moepool_exchange_seconds_count"),
                         pool.metric("moepool_exchange_own_seconds_count"))

    def test_the_price_of_a_gateway(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), router_flags=("--prefix-cache", "off"))
        doors = ("--router", pool.address, "--http", pool.client.http_address, "--grpc", pool.client.grpc_address,
                 "--pairs", "4", "--warmup", "1", "--input-tokens", "12", "--streams", "3", "--stream-tokens", "6",
                 "--rounds", "2")
        report = self.bench("gateway", *doors)
        self.assertEqual([d["door"] for d in report["doors"]], ["router", "http", "grpc"])
        for door in report["doors"]:
            self.check_distribution(door["ttft_ms"], 4)
            self.assertEqual(door["added_ttft_ms"]["count"], 4)
            self.check_summary(door["tokens_per_s"])
            self.check_summary(door["throughput_ratio"])
        self.assertEqual(report["doors"][0]["added_ttft_ms"]["max"], 0)
        self.assertEqual(report["doors"][0]["throughput_ratio"]["values"], [1, 1])
        # Five prompts and three rounds of three streams, through three doors.
        self.assertEqual(pool.metric("moepool_sequences_finished_total"), 3 * (5 + 3 * 3))
        # Where prompts are taken from the cache the doors are not alike.
        pool = self.start_cluster(cluster.tiny_mixtral())
        refused = self.refused("gateway", "--router", pool.address, "--http", pool.client.http_address, "--grpc",
                               pool.client.grpc_address, "--pairs", "1", "--input-tokens", "40")
        self.assertIn("--prefix-cache off", refused)

    def test_what_cannot_be_measured_is_refused(self):
        model = str(cluster.tiny_mixtral())
        self.assertIn("nothing to measure", self.refused("engine", "--model", model))
        self.assertIn("--model or --router", self.refused("engine", "--prefill", "8"))
        self.assertIn("--prefill", self.refused("engine", "--model", model, "--prefill", "0"))
        self.assertIn("the context is 4096", self.refused("engine", "--model", model, "--prefill", "5000", *REPS))
        self.assertIn("127.0.0.1:1", self.refused("engine", "--router", "127.0.0.1:1", "--decode", "8"))
        self.assertIn("127.0.0.1:1", self.refused("serve", "--target", "127.0.0.1:1"))
        self.assertIn("--protocol", self.refused("serve", "--target", "127.0.0.1:1", "--protocol", "smtp"))


if __name__ == "__main__":
    cluster.main()
