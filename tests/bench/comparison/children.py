"""Child processes of the comparison: each on the same CPUs, with a time limit and a log, none left behind."""

import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time


class MeasurementError(Exception):
    """A row could not be measured; the message says what and why. Other rows go on."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, timeout_s, children, every_s=0.005):
    """Polls until condition() holds. MeasurementError: too late, or one of the children has ended."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        for child in children:
            if child.poll() is not None:
                raise MeasurementError(f"{what}: {child.args[0]} ended before with {child.returncode}: "
                                       f"{last_line(child.log_path)} ({child.log_path})")
        if time.monotonic() > deadline:
            raise MeasurementError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(every_s)


def http_ok(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def port_answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


class Children:
    """Context manager: whatever still runs at its end is killed. One thread."""

    def __init__(self, cpus, log_folder):
        self._cpus = ",".join(map(str, cpus))
        self._logs = pathlib.Path(log_folder).absolute()
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running = []
        self._started = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self._running:
            child.kill()
        for child in self._running.copy():
            self._drop(child)

    def start(self, command, env=None, read=False):
        """Starts a process whose output goes to `child.log_path`, but for standard output where the caller is to `read` it
        from a pipe. What it writes beside these, as some peers do, goes into the same folder: paths in `command` are to be
        absolute."""
        command = [str(word) for word in command]
        if not (os.access(command[0], os.X_OK) or shutil.which(command[0])):
            raise MeasurementError(f"no program at {command[0]}")
        self._started += 1
        log_path = self._logs / f"{self._started:04d}-{pathlib.Path(command[0]).name}.log"
        # Its own process group: Ctrl-C reaches this program alone, which then stops the others; the kernel does if it is
        # killed. Not its own session, which would be a scheduling group of its own (docs/performance.md).
        bound = ["setpriv", "--pdeathsig", "KILL", "--", "taskset", "-c", self._cpus, *command]
        with open(log_path, "wb") as log:
            log.write((" ".join(command) + "\n").encode())
            log.flush()
            # preexec_fn, since process_group came with Python 3.11; there is no other thread here that it could harm.
            child = subprocess.Popen(bound, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE if read else log, stderr=log,
                                     cwd=self._logs, preexec_fn=os.setpgrp, env={**os.environ, **(env or {})})
        child.args = command
        child.log_path = log_path
        self._running.append(child)
        return child

    def run(self, command, timeout_s, env=None):
        """Standard output of a program that ends by itself. MeasurementError: late, or not 0."""
        child = self.start(command, env, read=True)
        try:
            output, _ = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise MeasurementError(f"{command[0]} ran longer than {timeout_s:.0f} s ({child.log_path})") from None
        finally:
            self._drop(child)
        if child.returncode != 0:
            raise MeasurementError(f"{command[0]} ended with {child.returncode}: {last_line(child.log_path)} "
                                   f"({child.log_path})")
        return output.decode(errors="replace")

    def stop(self, child, timeout_s=30):
        """SIGTERM, then SIGKILL."""
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            try:
                child.wait(timeout_s)
            except subprocess.TimeoutExpired:
                pass
        self._drop(child)

    def _drop(self, child):
        if child.poll() is None:
            child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
        self._running.remove(child)


def last_line(path):
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[1:]
    return next((line.strip() for line in reversed(lines) if line.strip()), "nothing said")
