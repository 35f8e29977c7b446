"""The sandbox lets good programs pass, ends bad ones, and keeps what is outside out of reach."""

import pathlib
import socket
import sys
import tempfile
import threading
import unittest

import sandbox

SHORT = sandbox.Limits(wall_s=2, cpu_s=1)


class SandboxTest(unittest.TestCase):
    def check_fails(self, source, *words, limits=sandbox.Limits()):
        outcome = sandbox.run(source, limits)
        self.assertFalse(outcome.passed, source)
        self.assertTrue(any(word in outcome.reason for word in words), outcome.reason)

    def test_a_program_that_reaches_its_end_passes(self):
        for source in ("x = 1\nassert x == 1", "print('to standard output')",
                       "import math, typing, collections, re, hashlib",
                       "open('note', 'w').write('in its own folder')", "s = '\\u00e9'\nassert len(s) == 1"):
            self.assertEqual(sandbox.run(source), sandbox.Outcome(True, "passed"), source)

    def test_a_program_that_does_not_fails(self):
        self.check_fails("assert 1 == 2", "AssertionError")
        self.check_fails("def f(:", "SyntaxError")
        self.check_fails("import sys\nsys.exit(0)", "ended early")
        self.check_fails("import os\nos._exit(0)", "ended early")
        self.check_fails("print('passed')\nraise ValueError('no')", "no")

    def test_limits(self):
        self.check_fails("while True: pass", "timed out", "killed", limits=SHORT)
        self.check_fails("import time\ntime.sleep(1000)", "timed out", limits=SHORT)
        self.check_fails("x = bytearray(1 << 34)", "MemoryError")
        self.check_fails("open('x', 'wb').write(bytes(1 << 22))", "File too large")
        self.check_fails("import os\nwhile True: os.fork()", "temporarily unavailable", "timed out", limits=SHORT)

    def test_nothing_outside_can_be_reached(self):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as secret:
            pathlib.Path(secret.name).chmod(0o666)
            self.check_fails(f"open({secret.name!r}).read()", "No such file")
        self.check_fails("open('/usr/written', 'w')", "Read-only", "Permission denied")
        self.check_fails("import os\nos.kill(os.getppid(), 9) if os.getppid() > 1 else os.listdir('/home')",
                         "No such file", "not permitted")
        self.check_fails("import os\nassert os.listdir('/oldroot') == [], os.listdir('/oldroot')\nopen('/etc/passwd')",
                         "No such file")
        with socket.create_server(("127.0.0.1", 0)) as server:
            threading.Thread(target=self.accept, args=(server,), daemon=True).start()
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port)).close()
            self.check_fails(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)", "unreachable",
                             "refused")

    @staticmethod
    def accept(server):
        try:
            while True:
                server.accept()[0].close()
        except OSError:
            return

    def test_children_end_with_it(self):
        # The writer's end of a pipe stays open for as long as a child has it.
        outcome = sandbox.run("import os\nif os.fork() == 0:\n    import time\n    time.sleep(1000)", SHORT)
        self.assertTrue(outcome.passed, outcome)


if __name__ == "__main__":
    if sandbox.unavailable() is not None:
        print(f"no sandbox here: {sandbox.unavailable()}")
        sys.exit(77)
    unittest.main()
