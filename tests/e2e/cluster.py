"""Starts the real processes for the end-to-end tests, and asks them what a user would.

Every process binds port 0 and says its addresses on a line of JSON; nothing here waits for a fixed time. MOEPOOL_BIN
is the folder of the binaries. When a test fails, the logs of the processes it used are printed.
"""

import http.client
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

BIN = pathlib.Path(os.environ.get("MOEPOOL_BIN", "build/release/bin")).absolute()
# Bounds against hanging, not expectations: a loaded machine may take a while.
PATIENCE_S = 60
LOG_LINES_SHOWN = 60

_scratch = tempfile.TemporaryDirectory(prefix="moepool-e2e-")
SCRATCH = pathlib.Path(_scratch.name)
_processes = []  # all of this test program, for the logs


def wait_for(condition, what, timeout_s=PATIENCE_S):
    """Polls until condition() is true, and returns what it returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(0.01)


def environment(extra=None):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MOEPOOL_")}
    env.update(extra or {})
    return env


def tool(*args, timeout_s=PATIENCE_S, netns=None, **kwargs):
    """Runs `moepool ARGS`; returns the CompletedProcess, its output as bytes."""
    return run("moepool", *args, timeout_s=timeout_s, netns=netns, **kwargs)


def run(binary, *args, timeout_s=PATIENCE_S, netns=None, env=None, stdin=None):
    command = bound_command(netns, [str(BIN / binary), *map(str, args)])
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout_s,
                          env=environment(env), check=False)


def bound_command(netns, command):
    """The command as it is to be started: in the namespace if one is named, and never outliving this program."""
    bound = ["setpriv", "--pdeathsig", "KILL", "--", *command]
    return bound if netns is None else ["ip", "netns", "exec", netns, *bound]


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


def slow_mixtral():
    """Enough work a token that there is time to interfere with LONG_ANSWER."""
    return synth("slow-mixtral", hidden=256, layers=8, head_dim=32, experts=16, experts_per_token=2, ffn=256,
                 context=4096, vocab=8192, seed=12)


# The seed is one with which slow_mixtral() goes on to the last token.
LONG_ANSWER = {"max_tokens": 2000, "temperature": 0.8, "seed": 101}
LONG_PROMPT = "the long story"


class Process:
    """One process. Its stderr is kept in a file, its stdout is read for the ready line."""

    def __init__(self, binary, *args, env=None, netns=None, label=None):
        _processes.append(self)
        self.label = f"{len(_processes)}-{label or binary}"
        self.log_path = SCRATCH / f"{self.label}.log"
        self._ready = None
        self._output = []
        self._changed = threading.Condition()
        self._ended = False
        self.expect_exit = None  # of stop(): None: 0
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen(bound_command(netns, [str(BIN / binary), *map(str, args)]),
                                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                                          env=environment(env))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.popen.stdout:
            with self._changed:
                self._output.append(line)
                try:
                    fields = json.loads(line)
                except ValueError:
                    fields = None
                if isinstance(fields, dict) and fields.get("ready"):
                    self._ready = fields
                self._changed.notify_all()
        self.popen.stdout.close()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def pid(self):
        return self.popen.pid

    def wait_ready(self, timeout_s=PATIENCE_S):
        with self._changed:
            self._changed.wait_for(lambda: self._ready is not None or self._ended, timeout_s)
            if self._ready is None:
                state = "ended" if self._ended else "is still silent"
                raise AssertionError(f"{self.label} {state} without a ready line; its log ends\n{self.log_tail()}")
            return self._ready

    def output(self):
        with self._changed:
            return b"".join(self._output)

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def log_tail(self):
        return "\n".join(self.log().splitlines()[-LOG_LINES_SHOWN:])

    def alive(self):
        return self.popen.poll() is None

    def signal(self, number):
        self.popen.send_signal(number)

    def kill(self):
        """kill -9, and gone when this returns."""
        self.popen.kill()
        self.popen.wait(PATIENCE_S)

    def wait_exit(self, timeout_s=PATIENCE_S):
        try:
            code = self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.label} is alive after {timeout_s} s; its log ends\n{self.log_tail()}") from None
        self._reader.join(PATIENCE_S)
        return code


class Stream:
    """An answer in server-sent events, read as it comes."""

    def __init__(self, connection, response):
        self._connection = connection
        self._response = response
        self.pieces = []
        self.last = None  # with finish_reason and usage
        self.error = None
        self.done = False  # [DONE] has been seen
        self.keepalives = 0

    @property
    def text(self):
        return "".join(self.pieces)

    def read(self, pieces=None):
        """Reads on until so many pieces of text have come, or to the end."""
        while pieces is None or len(self.pieces) < pieces:
            line = self._response.readline()
            if not line:
                self._connection.close()
                return self
            line = line.rstrip(b"\r\n")
            if line.startswith(b":"):
                self.keepalives += 1
            elif line == b"data: [DONE]":
                self.done = True
            elif line:
                self._event(line)
        return self

    def _event(self, line):
        if not line.startswith(b"data: "):
            raise AssertionError(f"not a server-sent event: {line!r}")
        event = json.loads(line[len(b"data: "):])
        if "error" in event:
            self.error = event["error"]
        elif "finish_reason" in event:
            self.last = event
        else:
            self.pieces.append(event["text"])

    def hang_up(self):
        self._response.close()
        self._connection.close()


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = response.headers
        self.body = response.read()

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:500]!r}"


class Client:
    """What a user has of a gateway: its HTTP address, and its gRPC address for `moepool generate`."""

    def __init__(self, http_address, grpc_address, netns=None):
        self.http_address = http_address
        self.grpc_address = grpc_address
        self.netns = netns

    def request(self, method, path, body=None, headers=None, timeout_s=PATIENCE_S):
        connection = http.client.HTTPConnection(self.http_address, timeout=timeout_s)
        try:
            connection.request(method, path, body, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body, content_type="application/json", timeout_s=PATIENCE_S):
        if not isinstance(body, (bytes, str)):
            body = json.dumps(body, ensure_ascii=False)
        if isinstance(body, str):
            body = body.encode()
        return self.request("POST", path, body, {"Content-Type": content_type}, timeout_s)

    def infer(self, prompt, **fields):
        """The answer as a dictionary; anything but 200 fails."""
        answer = self.post("/infer", {"prompt": prompt, **fields})
        if answer.status != 200:
            raise AssertionError(f"/infer {fields}: {answer}")
        return answer.json()

    def stream(self, prompt, **fields):
        connection = http.client.HTTPConnection(self.http_address, timeout=PATIENCE_S)
        body = json.dumps({"prompt": prompt, "stream": True, **fields}, ensure_ascii=False).encode()
        connection.request("POST", "/infer", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"/infer as a stream: {Answer(response)}")
        return Stream(connection, response)

    def generate(self, prompt, *flags):
        """Standard output of `moepool generate` as text, without the newline that ends it."""
        made = self.try_generate(prompt, *flags)
        if made.returncode != 0:
            raise AssertionError(f"moepool generate: {made.returncode}: {made.stderr.decode()}")
        return made.stdout.decode()

    def try_generate(self, prompt, *flags):
        return tool("generate", "--gateway", self.grpc_address, *flags, "--", prompt, netns=self.netns)

    def ready(self):
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def wait_ready(self):
        wait_for(self.ready, f"/ready of {self.http_address}")


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
        first = len(_processes)
        alive = [p for p in _processes if p.alive()]
        began = time.monotonic()
        super().run(result)
        print(f"    {time.monotonic() - began:.1f} s", file=sys.stderr)
        if len(result.failures) + len(result.errors) > before:
            for process in alive + _processes[first:]:
                print(f"--- {process.label} (pid {process.pid}, exit code {process.popen.poll()})\n"
                      f"{process.log_tail()}", file=sys.stderr)
        return result

    def start_cluster(self, *args, **kwargs):
        """A cluster of this test alone, stopped at its end."""
        first = len(_processes)
        try:
            cluster = Cluster(*args, **kwargs)
        except BaseException:
            kill_all(_processes[first:])
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


def kill_all(processes):
    for process in processes:
        if process.alive():
            process.kill()


def main():
    try:
        unittest.main(verbosity=2)
    finally:
        kill_all(_processes)
        shutil.rmtree(SCRATCH, ignore_errors=True)
