"""Starts the real processes for the end-to-end tests, and asks them what a user would.

Every process binds port 0 and says its addresses on a line of JSON; nothing here waits for a fixed time. MOEPOOL_BIN
is the folder of the binaries. When a test fails, the logs of the processes it used are printed.
"""

import json
import shutil
import signal
import sys
import time
import unittest

from client import Client
from processes import (BIN, PATIENCE_S, SCRATCH, Process, all_processes, bound_command, environment, kill_all, run, tool,
                       wait_for)

__all__ = ["BIN", "LONG_ANSWER", "LONG_PROMPT", "PATIENCE_S", "SCRATCH", "Client", "Cluster", "E2eTest", "Process",
           "bound_command", "environment", "kill_all", "main", "run", "slow_mixtral", "synth", "tiny_dense",
           "tiny_mixtral", "tiny_phimoe", "tiny_qwen2moe", "tiny_qwen3moe", "tokens", "tool", "wait_for"]


def synth(name, **spec):
    """Makes a synthetic model once, and returns its path. spec: flags of `moepool synth`, with underscores."""
    path = SCRATCH / f"{name}.gguf"
    if not path.exists():
        flags = [word for key, value in spec.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        made = tool("synth", "--name", name, "--out", path, *flags)
        if made.returncode != 0:
            raise AssertionError(f"moepool synth {name}: {made.stderr.decode()}")
    return path


def tiny_mixtral():
    return synth("tiny-mixtral", hidden=64, layers=4, experts=16, experts_per_token=2, ffn=64, context=4096)


def tiny_dense():
    return synth("tiny-dense", hidden=64, layers=2, ffn=544, context=1024, seed=2)


def tiny_qwen3moe():
    return synth("tiny-qwen3moe", family="qwen3moe", hidden=64, layers=3, experts=12, experts_per_token=3, ffn=96,
                 context=1024, seed=3)


def tiny_qwen2moe():
    """With a shared expert, which runs on the trunk."""
    return synth("tiny-qwen2moe", family="qwen2moe", hidden=64, layers=3, experts=10, experts_per_token=3, ffn=48,
                 shared_ffn=80, context=1024, seed=4)


def tiny_phimoe():
    """The prompts and answers of the tests lie on both sides of its original context."""
    return synth("tiny-phimoe", family="phimoe", hidden=64, layers=3, heads=2, kv_heads=1, head_dim=32, experts=16,
                 experts_per_token=2, ffn=64, context=1024, original_context=80, seed=5)


def slow_mixtral():
    """Enough work a token that there is time to interfere with LONG_ANSWER."""
    return synth("slow-mixtral", hidden=256, layers=8, head_dim=32, experts=16, experts_per_token=2, ffn=256,
                 context=4096, vocab=8192, seed=12)


# The seed is one with which slow_mixtral() goes on to the last token.
LONG_ANSWER = {"max_tokens": 2000, "temperature": 0.8, "seed": 101}
LONG_PROMPT = "the long story"


def tokens(answer):
    """Usage without what the prefix cache happened to hold."""
    return {name: count for name, count in answer["usage"].items() if name != "cached_tokens"}


class Cluster:
    """Router, gateway and workers over one model. Parts may be killed and started again one by one."""

    def __init__(self, model, workers=2, router_flags=(), worker_flags=(), gateway_flags=(), kv_memory="64MiB"):
        self.model = model
        self.router_flags = router_flags
        self.worker_flags = worker_flags
        self.gateway_flags = gateway_flags
        self.kv_memory = kv_memory
        self.workers = []
        self.gateway = None
        self.processes = []
        self.start_router(workers)
        for _ in range(workers):
            self.start_worker()
        self.start_gateway()
        for worker in self.workers:
            worker.wait_ready()
        self.client.wait_ready()

    def _add(self, process):
        self.processes.append(process)
        return process

    def start_router(self, min_workers=1, address="127.0.0.1:0"):
        self.router = self._add(Process(
            "moepool-router", "--model", self.model, "--address", address, "--metrics-address", "127.0.0.1:0",
            "--kv-memory", self.kv_memory, "--min-workers", max(1, min_workers), *self.router_flags))
        self.address = self.router.wait_ready()["address"]

    def start_worker(self, *flags, model=None):
        worker = self._add(Process("moepool-expert-worker", "--router", self.address, "--model", model or self.model,
                                   *self.worker_flags, *flags))
        self.workers.append(worker)
        return worker

    def start_gateway(self):
        self.gateway = self._add(Process(
            "moepool-gateway", "--router", self.address, "--http-address", "127.0.0.1:0", "--grpc-address",
            "127.0.0.1:0", *self.gateway_flags))
        ready = self.gateway.wait_ready()
        self.client = Client(ready["http_address"], ready["grpc_address"])

    def status(self):
        """The pool as `moepool status --json` has it."""
        made = tool("status", "--json", "--router", self.address)
        if made.returncode != 0:
            raise AssertionError(f"moepool status: {made.returncode}: {made.stderr.decode()}")
        return json.loads(made.stdout)

    def wait_status(self, condition, what):
        """Waits until condition(status) holds; returns that status."""
        seen = {}

        def look():
            seen.update(self.status())
            return condition(seen)
        try:
            wait_for(look, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the pool is {json.dumps(seen)}") from None
        return seen

    def wait_idle(self):
        return self.wait_status(lambda s: s["running"] == 0 and s["waiting"] == 0 and
                                s["kv_blocks_free"] == s["kv_blocks"], "an idle router with all its KV blocks free")

    def metric(self, name):
        """A sample without labels from the router's /metrics."""
        body = Client(self.router.wait_ready()["metrics_address"], None).get("/metrics").body.decode()
        for line in body.splitlines():
            if line.startswith(name + " "):
                return float(line.split()[1])
        raise AssertionError(f"the router has no metric {name}:\n{body}")

    def stop(self):
        """SIGTERM to what is alive; each is to exit with 0. The gateway first, so that nothing is cut off."""
        wrong = []
        for group in ([self.gateway], [self.router], self.workers):
            alive = [p for p in group if p is not None and p.alive()]
            for process in alive:
                process.signal(signal.SIGTERM)
            for process in alive:
                code = process.wait_exit()
                if code != 0:
                    wrong.append(f"{process.label} ended with {code} after SIGTERM")
        if wrong:
            raise AssertionError("; ".join(wrong))


class E2eTest(unittest.TestCase):
    """Prints the logs of a failed test's processes, and leaves no process behind."""

    maxDiff = None

    def run(self, result=None):
        before = len(result.failures) + len(result.errors)
        first = len(all_processes)
        alive = [p for p in all_processes if p.alive()]
        began = time.monotonic()
        super().run(result)
        print(f"    {time.monotonic() - began:.1f} s", file=sys.stderr)
        if len(result.failures) + len(result.errors) > before:
            for process in alive + all_processes[first:]:
                print(f"--- {process.label} (pid {process.pid}, exit code {process.popen.poll()})\n"
                      f"{process.log_tail()}", file=sys.stderr)
        return result

    def start_cluster(self, *args, **kwargs):
        """A cluster of this test alone, stopped at its end."""
        first = len(all_processes)
        try:
            cluster = Cluster(*args, **kwargs)
        except BaseException:
            kill_all(all_processes[first:])
            raise
        self.addCleanup(lambda: kill_all(cluster.processes))
        self.addCleanup(cluster.stop)
        return cluster

    def start(self, *args, **kwargs):
        process = Process(*args, **kwargs)
        self.addCleanup(lambda: kill_all([process]))
        return process

    def check_error(self, answer, status, param=None, mentions=()):
        """An error in OpenAI's shape."""
        self.assertEqual(answer.status, status, answer)
        body = answer.json()
        self.assertEqual(list(body), ["error"], answer)
        error = body["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"}, answer)
        self.assertIsInstance(error["message"], str)
        self.assertTrue(error["message"], answer)
        expected = "rate_limit_error" if status == 429 else "server_error" if status >= 500 else "invalid_request_error"
        self.assertEqual(error["type"], expected, answer)
        if param is not None:
            self.assertEqual(error["param"], param, answer)
            self.assertIn(param, error["message"])
        for word in mentions:
            self.assertIn(word, error["message"])


def main():
    try:
        unittest.main(verbosity=2)
    finally:
        kill_all(all_processes)
        shutil.rmtree(SCRATCH, ignore_errors=True)
