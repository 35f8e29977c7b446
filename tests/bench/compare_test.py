#!/usr/bin/env python3
"""Tests of the comparison that need neither peers nor models: goals, parsing, resuming, and whole runs of fake programs."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from comparison import cluster, peers, report, rows  # noqa: E402
from comparison.children import Children, MeasurementError, wait_until  # noqa: E402
from comparison.goals import Goal, fraction, goals, verdict  # noqa: E402
from comparison.shapes import BYTES_OF_256, SHAPES  # noqa: E402
from comparison.store import Store  # noqa: E402

SAMPLES = HERE / "samples"
OURS = ("moepool", "moepool-router", "moepool-expert-worker", "moepool-gateway")
THEIRS = ("llama-bench", "llama-batched-bench", "llama-server", "ggml-rpc-server")
PATIENCE_S = 60


def sample(name):
    return (SAMPLES / name).read_text(encoding="utf-8")


class ShapesTest(unittest.TestCase):
    def test_bytes_by_hand(self):
        shape = SHAPES["moe16-tiny"]
        block = BYTES_OF_256["q4_0"] / 256
        attention = 512 * (512 + 128 + 128 + 512) * block
        expert = 3 * 512 * 1024 * block
        self.assertEqual(shape.layer_bytes("q4_0", 2), 8 * (attention + 2 * expert + 512 * 16 * 4))
        self.assertEqual(shape.file_bytes("q4_0"), shape.layer_bytes("q4_0", 16) + 2 * 32000 * 512 * block)
        self.assertEqual(shape.token_ops(head=False), 2 * 8 * (512 * 1280 + 6 * 512 * 1024))
        self.assertEqual(shape.kv_bytes(1), 8 * 2 * 128 * 2)

    def test_sizes_of_files_that_synth_wrote(self):
        # Norms, biases, metadata and the vocabulary, which the formula leaves out, are under 1.3 MB here.
        for dtype, written in (("q4_0", 135859840), ("q4_k_m", 148802176)):
            left = written - SHAPES["moe16-tiny"].file_bytes(dtype)
            self.assertTrue(0 < left < 1.3e6, (dtype, left))

    def test_experts_read(self):
        shape = SHAPES["moe16-5b"]
        self.assertEqual(shape.experts_read(1), 2)
        self.assertAlmostEqual(shape.experts_read(16), 14.1, places=1)
        self.assertAlmostEqual(shape.experts_read(512), 16)


class ParsingTest(unittest.TestCase):
    def test_llama_bench(self):
        found = peers.parse_llama_bench("a line of log\n" + sample("llama_bench.json"), (512, 2048), 128)
        recorded = json.loads(sample("llama_bench.json"))
        self.assertEqual(found, {"prefill_512": recorded[0]["samples_ts"][1], "prefill_2048": recorded[1]["samples_ts"][1],
                                 "decode_1": recorded[2]["samples_ts"][1]})
        for output, lengths in ((sample("llama_bench.json"), (513,)), ("no JSON", (512,)), ("[1]", (512,)), ("", ()),
                                ('[{"n_prompt": 512, "n_gen": 0, "samples_ts": []}]', (512,))):
            with self.assertRaises(MeasurementError):
                peers.parse_llama_bench(output, lengths, 128)

    def test_batched_bench(self):
        self.assertEqual(peers.parse_batched_bench(sample("llama_batched_bench.txt"), (8, 32)),
                         {"streams_8": 26.65, "streams_32": 97.39})
        with self.assertRaisesRegex(MeasurementError, "64"):
            peers.parse_batched_bench(sample("llama_batched_bench.txt"), (8, 64))

    def test_ours(self):
        found = cluster.parse_engine(sample("bench_engine.json"))
        self.assertEqual(set(found) - {"exchange_own_p50_us", "exchange_own_p99_us"},
                         {"prefill_512", "prefill_2048", "decode_1", "streams_8", "streams_16", "streams_32",
                          "batching_ratio", "continuous_tokens_per_s", "static_tokens_per_s", "continuous_utilisation",
                          "static_utilisation"})
        self.assertTrue(all(value > 0 for value in found.values()), found)
        served = cluster.parse_serve(sample("bench_serve.json"), 2)
        self.assertEqual(set(served), {"output_tokens_per_s", "ttft_p50_ms", "ttft_p99_ms", "tpot_p50_ms", "itl_p99_ms",
                                       "client_cpu_share"})
        self.assertAlmostEqual(served["client_cpu_share"], 0.01)
        self.assertEqual(cluster.parse_together(sample("bench_serve.json")), 137.5)
        both_cores = json.loads(sample("bench_kernels.json"))["runs"][1]["limits"]
        self.assertEqual(cluster.parse_limits(sample("bench_kernels.json")),
                         {"read_gb_per_s": both_cores["read_gb_s"], "int8_gops": both_cores["int8_gops"]})
        for parse in (cluster.parse_engine, lambda output: cluster.parse_serve(output, 2), cluster.parse_together,
                      cluster.parse_limits):
            for output in ("", "{}", "[]", '{"results": [{}]}'):
                with self.assertRaises(MeasurementError, msg=(parse, output)):
                    parse(output)

    def test_failed_requests_are_no_figures(self):
        served = json.loads(sample("bench_serve.json"))
        served.update(failed=1, errors={"HTTP 503": 1})
        with self.assertRaisesRegex(MeasurementError, "HTTP 503"):
            cluster.parse_serve(json.dumps(served), 2)
        served.update(together_tokens_per_s=None)
        with self.assertRaisesRegex(MeasurementError, "HTTP 503"):
            cluster.parse_together(json.dumps(served))

    def test_ids_that_came_in_a_burst_are_no_figures(self):
        engine = json.loads(sample("bench_engine.json"))
        decode = next(r for r in engine["results"] if r["phase"] == "decode")
        decode["exchange"]["layers"] = 360
        with self.assertRaisesRegex(MeasurementError, "360 layers .* not 1016"):
            cluster.parse_engine(json.dumps(engine))


class GoalsTest(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.store = Store(pathlib.Path(self._folder.name) / "r.jsonl")

    def add(self, row, ours, theirs=None, rep=0, model="moe16-5b", against="llama.cpp", **more):
        self.store.add({"row": row, "model": model, "type": "q4_0", "against": against, "rep": rep, "ours": ours,
                        "theirs": theirs, **more})

    def test_median_of_the_ratios_of_pairs(self):
        for rep, (ours, theirs) in enumerate(((10, 10), (90, 30), (40, 20))):
            self.add("decode", {"decode_1": ours}, {"decode_1": theirs}, rep)
        found = verdict(Goal("decode", "moe16-5b", "q4_0", "llama.cpp", "decode_1", 2.0), self.store)
        self.assertEqual((found.value, found.ours, found.theirs, found.spread), (2.0, 40, 20, (1.0, 3.0)))
        self.assertEqual(found.word, "met")
        above = verdict(Goal("decode", "moe16-5b", "q4_0", "llama.cpp", "decode_1", 2.01), self.store)
        self.assertEqual(above.word, "MISSED")

    def test_at_most(self):
        self.add("serve", {"ttft_p50_ms": 20}, {"ttft_p50_ms": 100})
        for bound, word in ((0.2, "met"), (0.19, "MISSED")):
            goal = Goal("serve", "moe16-5b", "q4_0", "llama.cpp", "ttft_p50_ms", bound, at_most=True)
            self.assertEqual(verdict(goal, self.store).word, word)

    def test_without_figures(self):
        goal = Goal("decode", "moe16-5b", "q4_0", "llama.cpp", "decode_1", 1.0)
        self.assertEqual(verdict(goal, self.store).word, "not measured")
        self.add("decode", {"decode_1": 10}, None)  # no peer
        self.assertEqual(verdict(goal, self.store).word, "not measured")
        self.store.add({"row": "decode", "model": "moe16-5b", "type": "q4_0", "against": "llama.cpp", "rep": 1,
                        "error": "it broke"})
        self.assertEqual(verdict(goal, self.store).missing, "it broke")
        self.assertIn("it broke", report.text_table([verdict(goal, self.store)]))

    def test_fraction_of_the_best_limit(self):
        goal = Goal("prefill", "moe16-5b", "q4_0", "llama.cpp", "prefill_512", 0.4, of="int8_peak")
        self.add("prefill", {"prefill_512": 400})
        self.assertEqual(verdict(goal, self.store).word, "not measured")
        for rep, peak in enumerate((1000, 1745)):
            self.add("limits", {"int8_gops": peak, "read_gb_per_s": 70}, rep=rep, against="machine")
        self.assertAlmostEqual(verdict(goal, self.store).value, 0.4, places=3)
        reads = Goal("decode", "moe16-5b", "q4_0", "llama.cpp", "decode_1", 0.65, of="read_bandwidth")
        self.assertAlmostEqual(fraction(reads, 100, {"read_gb_per_s": 70}),
                               100 * (529.7e6 + 80 * 32768) / 70e9, places=3)

    def test_every_goal_belongs_to_a_planned_session_and_prints(self):
        types = ("q4_0", "q4_k_m", "q8_0")
        planned = {(row, s.model, s.dtype, s.against)
                   for s in rows.plan(rows.ROWS, types, 5, True, True, rows.MODELS) for row in s.rows}
        for goal in goals(types):
            self.assertIn((goal.row, goal.model, goal.dtype, goal.against), planned)
            self.assertEqual(len(report.cells(verdict(goal, self.store))), len(report.HEADS))


class StoreTest(unittest.TestCase):
    def test_interrupted_line_is_measured_again(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "r.jsonl"
            key = {"row": "decode", "model": "m", "type": "t", "against": "a"}
            store = Store(path)
            for rep in range(2):
                store.add({**key, "rep": rep, "ours": {"x": rep}, "theirs": None})
            path.write_bytes(path.read_bytes()[:-5])
            again = Store(path)
            self.assertEqual([r["rep"] for r in again.measured(**key)], [0])
            again.add({**key, "rep": 1, "ours": {"x": 7}, "theirs": None})
            self.assertEqual([r["ours"]["x"] for r in Store(path).measured(**key)], [0, 7])
            path.write_bytes(b"{}\n" + path.read_bytes())
            with self.assertRaisesRegex(ValueError, "line 1"):
                Store(path)


class ChildrenTest(unittest.TestCase):
    def setUp(self):
        self._folder = tempfile.TemporaryDirectory()
        self.addCleanup(self._folder.cleanup)
        self.cpu = min(os.sched_getaffinity(0))

    def test_limits_and_logs(self):
        with Children([self.cpu], self._folder.name) as children:
            self.assertEqual(children.run(["/bin/echo", "out"], PATIENCE_S), "out\n")
            with self.assertRaisesRegex(MeasurementError, "ended with 3: at fault"):
                children.run(["/bin/sh", "-c", "echo at fault >&2; exit 3"], PATIENCE_S)
            with self.assertRaisesRegex(MeasurementError, "longer than 0 s"):
                children.run(["/bin/sleep", "1000"], 0.05)
            with self.assertRaisesRegex(MeasurementError, "no program at /no/where"):
                children.run(["/no/where"], PATIENCE_S)
            left = children.start(["/bin/sleep", "1000"])
            # A group of its own, but no session, which would be scheduled apart from the others.
            self.assertEqual((os.getpgid(left.pid), os.getsid(left.pid)), (left.pid, os.getsid(0)))
        self.assertEqual(left.returncode, -signal.SIGKILL)

    def test_output_that_nobody_reads_stops_nobody(self):
        with Children([self.cpu], self._folder.name) as children:
            talker = children.start(["/bin/sh", "-c", "head -c 1000000 /dev/zero; exec sleep 1000"])
            wait_until(lambda: talker.log_path.stat().st_size > 1000000, "a million bytes in the log", PATIENCE_S, [talker])
            reader = children.start(["/bin/echo", "line"], read=True)
            self.assertEqual(reader.stdout.readline(), b"line\n")


class RunTest(unittest.TestCase):
    """compare.py itself, with fake programs."""

    def setUp(self):
        self._folder = tempfile.TemporaryDirectory(prefix="moepool-compare-")
        self.addCleanup(self._folder.cleanup)
        self.folder = pathlib.Path(self._folder.name)
        self.state = self.folder / "state"
        self.state.mkdir()
        for name in (*OURS, *THEIRS):
            (self.folder / name).symlink_to(SAMPLES / "fake_programs.py")
        self.results = self.folder / "results"

    def command(self, *args):
        cpu = min(os.sched_getaffinity(0))
        return [sys.executable, "-B", str(HERE / "compare.py"), "--bin", str(self.folder), "--peer", str(self.folder),
                "--fork", str(self.folder), "--results", str(self.results), "--small", "--cpus", str(cpu), "--types", "q4_0",
                "--smollm", str(self.folder / "no-such-file"), *args]

    def compare(self, *args):
        return subprocess.run(self.command(*args), capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    def calls(self, name):
        path = self.state / f"calls-{name}"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def records(self):
        return [json.loads(line) for line in (self.results / "results.jsonl").read_text(encoding="utf-8").splitlines()]

    def check_nothing_left(self):
        self.assertEqual(list(self.results.glob("*.gguf")), [])
        for log in self.state.glob("calls-*"):
            for line in log.read_text(encoding="utf-8").splitlines():
                pid = int(line.split()[0])
                command = pathlib.Path(f"/proc/{pid}/cmdline")
                self.assertFalse(command.exists() and str(self.folder).encode() in command.read_bytes(), line)

    def test_all_rows_then_nothing_more(self):
        made = self.compare("--reps", "2")
        self.assertEqual(made.returncode, 1, made.stderr)  # the fake figures miss some goals
        self.assertRegex(made.stdout, r"\d+ met, \d+ missed, 0 not measured")
        self.check_nothing_left()
        measured = {r["row"] for r in self.records()}
        self.assertEqual(measured, set(rows.DEFAULT_ROWS) - {"smollm"} | {"limits"})
        calls = {name: self.calls(name) for name in (*OURS, *THEIRS)}
        for name, lines in calls.items():
            self.assertTrue(lines, f"{name} was not called")
        seeds = [line.split("--seed ")[1].split()[0] for line in calls["moepool"] if "--seed" in line]
        self.assertEqual(len(seeds), len(set(seeds)))  # no prompt twice, which the prefix cache would know
        again = self.compare("--reps", "2")
        self.assertEqual(again.stdout, made.stdout)
        self.assertEqual({name: self.calls(name) for name in calls}, calls)
        more = self.compare("--reps", "3", "--rows", "decode")
        self.assertIn("decode", more.stdout)
        self.assertEqual(len(self.calls("llama-bench")), len(calls["llama-bench"]) + 2)  # one of each peer

    def test_failing_row_leaves_the_others_and_is_tried_again(self):
        failing = self.state / "fail-llama-server"
        failing.touch()
        made = self.compare("--reps", "1", "--rows", "tiny,serve")
        self.assertEqual(made.returncode, 1)
        self.assertIn("told to fail", made.stdout)
        self.assertEqual({r["row"] for r in self.records() if "error" not in r}, {"tiny", "limits"})
        failing.unlink()
        made = self.compare("--reps", "1", "--rows", "tiny,serve")
        self.assertNotIn("not measured:", made.stdout)
        self.check_nothing_left()

    def test_missing_binary_is_named_before_anything_runs(self):
        (self.folder / "ggml-rpc-server").unlink()
        made = self.compare("--rows", "rpc")
        self.assertEqual(made.returncode, 2)
        self.assertIn(str(self.folder / "ggml-rpc-server"), made.stderr)
        self.assertEqual(self.calls("moepool"), [])
        made = self.compare("--peer", str(self.folder / "nowhere"))
        self.assertEqual(made.returncode, 2)
        self.assertIn(f"no folder {self.folder / 'nowhere'}", made.stderr)

    def test_model_that_cannot_be_made_leaves_the_others(self):
        failing = self.state / "fail-moepool"
        failing.write_text("synth --name mix16-tiny", encoding="utf-8")
        made = self.compare("--reps", "1", "--rows", "decode")
        self.assertEqual(made.returncode, 1, made.stderr)
        self.assertRegex(made.stdout, "not measured: decode mix16-tiny q4_0 decode_1: .*told to fail")
        self.assertEqual({r["model"] for r in self.records() if "error" not in r}, {"moe16-tiny"})
        failing.unlink()
        self.assertIn("0 not measured", self.compare("--reps", "1", "--rows", "decode").stdout)
        self.check_nothing_left()

    def test_every_goal_has_a_figure_before_any_has_two(self):
        self.compare("--reps", "2", "--rows", "tiny,decode,load")
        order = [(r["rep"], r["row"], r["model"]) for r in self.records() if r["row"] != "limits"]
        self.assertEqual(order, [(rep, *row) for rep in range(2) for row in
                                 (("tiny", "moe16-tiny"), ("decode", "moe16-tiny"), ("decode", "mix16-tiny"))] +
                         [(0, "load", "moe16-tiny"), (0, "load", "mix16-tiny")])

    def test_interrupt_leaves_nothing_and_resumes(self):
        hanging = self.state / "hang-llama-batched-bench"
        hanging.touch()
        for number in (signal.SIGINT, signal.SIGTERM):
            before = len(self.calls("llama-batched-bench"))
            with open(os.devnull, "wb") as null:
                running = subprocess.Popen(self.command("--reps", "1", "--rows", "tiny"), stdout=null, stderr=null)
            deadline = time.monotonic() + PATIENCE_S
            while len(self.calls("llama-batched-bench")) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            running.send_signal(number)
            self.assertEqual(running.wait(PATIENCE_S), 130)
            self.check_nothing_left()
        hanging.unlink()
        self.assertIn("0 not measured", self.compare("--reps", "1", "--rows", "tiny").stdout)

    def test_end_of_time_leaves_the_rest_for_the_next_run(self):
        made = self.compare("--reps", "1", "--rows", "tiny,decode", "--minutes", "1e-6")
        self.assertIn("6 not measured", made.stdout)
        self.assertEqual(self.calls("moepool"), [])
        self.assertIn("0 not measured", self.compare("--reps", "1", "--rows", "tiny").stdout)

    def test_pages(self):
        page, short = self.folder / "page.md", self.folder / "short.md"
        page.write_text("before\n<!-- goals -->\nold\n<!-- end -->\n<!-- when -->\n<!-- end -->\n"
                        "<!-- roofline q4_0 -->\n<!-- end -->\nafter\n", encoding="utf-8")
        short.write_text("<!-- summary -->\n<!-- end -->\n", encoding="utf-8")
        self.compare("--reps", "1", "--rows", "decode,streams,serve", "--markdown", str(page), str(short))
        text = page.read_text(encoding="utf-8")
        self.assertRegex(text, r"(?s)^before\n<!-- goals -->\n\| model .*decode, 1 stream.*<!-- end -->\n<!-- when -->\n"
                               r"Measured from .*, 6 rows\.\n<!-- end -->\n<!-- roofline")
        self.assertNotIn("old", text)
        self.assertTrue(text.endswith("<!-- end -->\nafter\n"))
        summary = short.read_text(encoding="utf-8")
        for line in ("moe16-tiny Q4_0 | llama.cpp", "mix16-tiny Q4_0 | ik_llama.cpp"):
            self.assertRegex(summary, rf"\| {line} \| [0-9.,]+ / 127 = [0-9.]+ \| .* = 1.00 \|")
        # Whatever was asked for, pages say all that there is.
        for asked in ((), ("--types", "q8_0"), ("--rows", "tiny")):
            made = self.compare("--report", *asked, "--markdown", str(page), str(short))
            self.assertEqual((text, summary), (page.read_text(encoding="utf-8"), short.read_text(encoding="utf-8")), made.stderr)


if __name__ == "__main__":
    unittest.main()
