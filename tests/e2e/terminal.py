"""A program in a terminal of its own, for the end-to-end tests: keys in, screen out."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from processes import BIN, PATIENCE_S, bound_command, environment


class Terminal:
    """`moepool ARGS` with a pseudo-terminal as its controlling terminal."""

    def __init__(self, *args, rows=40, columns=120, env=None):
        command = bound_command(None, [str(BIN / "moepool"), *map(str, args)])
        variables = environment({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8", **(env or {})})
        self.master, self._slave = pty.openpty()
        self.resize(rows, columns)
        self.before = termios.tcgetattr(self._slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(self._slave, termios.TIOCSCTTY, 0)
            for descriptor in (0, 1, 2):
                os.dup2(self._slave, descriptor)
            os.closerange(3, 256)
            os.execvpe(command[0], command, variables)
        self.output = b""  # all of it
        self._seen = 0  # up to where expect() has looked
        self.code = None

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def send(self, text):
        os.write(self.master, text.encode() if isinstance(text, str) else text)

    def expect(self, pattern):
        """Waits for a regular expression in what has come since the last one; returns the match."""
        pattern = re.compile(pattern.encode() if isinstance(pattern, str) else pattern, re.DOTALL)
        deadline = time.monotonic() + PATIENCE_S
        while True:
            match = pattern.search(self.output, self._seen)
            if match is not None:
                self._seen = match.end()
                return match
            self._read(deadline, pattern)

    def _read(self, deadline, what):
        ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}; the terminal shows {self.output[-2000:]!r}")
        self.output += os.read(self.master, 1 << 16)

    def signal(self, number):
        os.kill(self.pid, number)

    def wait_exit(self):
        """The exit code; negative where a signal ended it."""
        deadline = time.monotonic() + PATIENCE_S
        while self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended != 0:
                self.code = os.waitstatus_to_exitcode(status)
            else:
                # What nobody reads would keep it from ending.
                ready, _, _ = select.select([self.master], [], [], 0.01)
                if ready:
                    self.output += os.read(self.master, 1 << 16)
                if time.monotonic() > deadline:
                    raise AssertionError(f"alive after {PATIENCE_S} s; the terminal shows {self.output[-2000:]!r}")
        while select.select([self.master], [], [], 0)[0]:
            self.output += os.read(self.master, 1 << 16)
        return self.code

    def restored(self):
        """Whether the terminal is as it was before."""
        return termios.tcgetattr(self._slave) == self.before

    def close(self):
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)
        os.close(self._slave)
