"""--trace: one file of all processes by one clock, in which spans nest and frames arrive after they were sent."""

import collections
import json

import cluster
from cluster import SCRATCH, E2eTest


def nanoseconds(text):
    """Times are microseconds with three decimals."""
    whole, decimals = text.split(".")
    assert len(decimals) == 3, text
    return int(whole + decimals)


def read_trace(path):
    text = path.read_text(encoding="utf-8")
    assert text.startswith("[\n") and text.endswith(",\n"), (text[:100], text[-100:])
    return json.loads(text[:-2] + "]", parse_float=nanoseconds)


class TraceTest(E2eTest):
    def setUp(self):
        self.path = SCRATCH / f"{self.id()}.json"
        self.flags = ("--trace", str(self.path))

    def read(self):
        """{process name: {pid}}, and spans by (pid, tid) in order of their begins, each checked to nest."""
        self.events = read_trace(self.path)
        self.names = {e["pid"]: e["args"]["name"] for e in self.events
                      if e["ph"] == "M" and e["name"] == "process_name"}
        self.assertEqual([e for e in self.events if e["ph"] == "i"], [], "events left out")
        spans = collections.defaultdict(list)
        for event in self.events:
            self.assertIn(event["pid"], self.names)
            if event["ph"] == "X":
                spans[event["pid"], event["tid"]].append(event)
        for thread, of_thread in spans.items():
            of_thread.sort(key=lambda e: (e["ts"], -e["dur"]))
            open_ends = []
            for span in of_thread:
                while open_ends and open_ends[-1][0] <= span["ts"]:
                    open_ends.pop()
                end = span["ts"] + span["dur"]
                if open_ends:
                    self.assertLessEqual(end, open_ends[-1][0], f"{span} of {thread} is not within {open_ends[-1][1]}")
                open_ends.append((end, span["name"]))
        return spans

    def pids(self, name):
        return {pid for pid, of in self.names.items() if of == name}

    def check_steps(self, spans, layers):
        """Each step that ran has plan, forward and commit; forward has the layers in order and the head."""
        of_engine = next(s for s in spans.values() if any(e["name"] == "forward" for e in s))

        def inside(outer, names):
            return [e for e in of_engine if e["name"] in names and
                    outer["ts"] <= e["ts"] and e["ts"] + e["dur"] <= outer["ts"] + outer["dur"]]
        forwards = [e for e in of_engine if e["name"] == "forward"]
        for forward in forwards:
            blocks = [(e["name"], e["args"]["layer"]) for e in
                      inside(forward, ("attention", "gate", "dispatch", "combine"))]
            self.assertEqual(blocks, [(name, layer) for layer in range(layers)
                                      for name in ("attention", "gate", "dispatch", "combine")])
            self.assertEqual(len(inside(forward, ("head",))), 1)
        for step in (e for e in of_engine if e["name"] == "step"):
            parts = [e["name"] for e in inside(step, ("plan", "forward", "commit"))]
            self.assertIn(parts, (["plan"], ["plan", "forward", "commit"]))
        return forwards

    def test_a_router_two_workers_and_a_gateway(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), workers=2, router_flags=self.flags, worker_flags=self.flags,
                                  gateway_flags=self.flags)
        answer = pool.client.infer("the cat sat on the mat", max_tokens=12, ignore_eos=True)
        pool.wait_idle()
        pool.stop()
        spans = self.read()
        self.assertEqual(collections.Counter(self.names.values()), {"router": 1, "gateway": 1, "expert worker": 2})
        forwards = self.check_steps(spans, layers=4)
        self.assertEqual(len(forwards), 12)  # the prompt in one, then one for each further token
        self.assertEqual(forwards[0]["args"]["rows"], answer["usage"]["prompt_tokens"])
        self.assertEqual({f["args"]["rows"] for f in forwards[1:]}, {1})

        # A frame is sent before it is received, and answered after that, on one clock.
        flows = collections.defaultdict(dict)
        for event in self.events:
            if event["ph"] in "sf":
                self.assertNotIn((event["name"], event["ph"]), flows[event["id"]])
                flows[event["id"]][event["name"], event["ph"]] = event
        self.assertGreaterEqual(len(flows), 4 * 12)
        for flow in flows.values():
            way = [flow["dispatch", "s"], flow["dispatch", "f"], flow["reply", "s"], flow["reply", "f"]]
            self.assertEqual([e["ts"] for e in way], sorted(e["ts"] for e in way))
            self.assertIn(way[0]["pid"], self.pids("router"))
            self.assertIn(way[1]["pid"], self.pids("expert worker"))
            self.assertEqual(way[1]["pid"], way[2]["pid"])
            self.assertEqual(way[3]["pid"], way[0]["pid"])
        computed = [e for s in spans.values() for e in s if e["name"] == "experts"]
        self.assertEqual(len(computed), len(flows))
        self.assertEqual({e["pid"] for e in computed}, self.pids("expert worker"))
        names = {e["name"] for (pid, _), s in spans.items() if pid in self.pids("expert worker") for e in s}
        self.assertLessEqual({"decode frame", "gate and up", "down", "add", "reply"}, names)

        # The request surrounds the sequence, as the gateway and the router tell of them.
        ends = {(e["name"], e["ph"]): e for e in self.events if e["ph"] in "be"}
        self.assertEqual(set(ends), {(name, ph) for name in ("request", "sequence") for ph in "be"})
        order = [ends["request", "b"], ends["sequence", "b"], forwards[0], ends["sequence", "e"], ends["request", "e"]]
        self.assertEqual([e["ts"] for e in order], sorted(e["ts"] for e in order))
        self.assertEqual(ends["sequence", "e"]["args"]["tokens"], 12)

    def test_serve_in_one_process(self):
        process = self.start("moepool", "serve", "--model", cluster.tiny_mixtral(), "--workers", "2", "--http-address",
                             "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--kv-memory", "16MiB", *self.flags)
        ready = process.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        client.infer("the cat", max_tokens=3, ignore_eos=True)
        process.popen.terminate()
        self.assertEqual(process.wait_exit(), 0)
        spans = self.read()
        self.assertEqual(list(self.names.values()), ["serve"])
        self.assertEqual(len(self.check_steps(spans, layers=4)), 3)

    def test_a_file_that_cannot_be_made_is_named(self):
        made = cluster.run("moepool-router", "--model", cluster.tiny_mixtral(), "--trace", "/proc/no/such/file")
        self.assertNotEqual(made.returncode, 0)
        self.assertIn(b"/proc/no/such/file", made.stderr)


if __name__ == "__main__":
    cluster.main()
