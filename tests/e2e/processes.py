"""Starts processes for the end-to-end tests, waits for what they say, and keeps their logs."""

import json
import os
import pathlib
import subprocess
import tempfile
import threading
import time

BIN = pathlib.Path(os.environ.get("MOEPOOL_BIN", "build/release/bin")).absolute()
# Bounds against hanging, not expectations: a loaded machine may take a while.
PATIENCE_S = 60
LOG_LINES_SHOWN = 60

_scratch = tempfile.TemporaryDirectory(prefix="moepool-e2e-")
SCRATCH = pathlib.Path(_scratch.name)
all_processes = []  # all of this test program, for the logs


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
    env["XDG_CACHE_HOME"] = str(SCRATCH / "cache")  # digests and packed weights of models that go with the tests
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


class Process:
    """One process. Its stderr is kept in a file, its stdout is read for the ready line."""

    def __init__(self, binary, *args, env=None, netns=None, label=None):
        all_processes.append(self)
        self.label = f"{len(all_processes)}-{label or binary}"
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


def kill_all(processes):
    for process in processes:
        if process.alive():
            process.kill()
