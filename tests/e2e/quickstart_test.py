"""deploy/quickstart.sh with the real programs, but without packages and build: asks, is asked again, restarts, stops."""

import os
import pathlib
import shutil
import socket
import subprocess

import cluster
from cluster import BIN, PATIENCE_S, SCRATCH, E2eTest, environment, wait_for

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
ADDRESSES = ("http", "grpc", "router", "metrics")


def free_addresses():
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in ADDRESSES]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return [word for name, port in zip(ADDRESSES, ports) for word in (f"--{name}-address", f"127.0.0.1:{port}")]


class QuickstartTest(E2eTest):
    def setUp(self):
        """A tree in which nothing is left to install or to build."""
        super().setUp()
        self.root = SCRATCH / "quickstart"
        self.run_folder = self.root / "build/run"
        shutil.copytree(DEPLOY, self.root / "deploy")
        self.bin = self.root / "build/release/bin"
        self.bin.mkdir(parents=True)
        (self.root / "build/release/build.ninja").touch()
        for program in ("moepool", "moepool-router", "moepool-expert-worker", "moepool-gateway"):
            (self.bin / program).symlink_to(BIN / program)
        for program in (self.root / "deploy/packages.sh", self.root / "path/cmake"):
            program.parent.mkdir(exist_ok=True)
            program.write_text("#!/bin/sh\n", encoding="utf-8")
            program.chmod(0o755)
        self.model = cluster.tiny_mixtral()
        self.options = [*free_addresses(), "--model", str(self.model)]
        self.addCleanup(shutil.rmtree, self.root)
        self.addCleanup(self.quickstart, "--stop")

    def command(self, *args):
        return [str(self.root / "deploy/quickstart.sh"), *args]

    def environment(self):
        return environment({"PATH": f"{self.root / 'path'}:{os.environ['PATH']}"})

    def quickstart(self, *args):
        return subprocess.run(self.command(*args), stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=2 * PATIENCE_S, env=self.environment(), check=False)

    def ask(self, *args):
        made = self.quickstart(*self.options, *args, "A prompt")
        self.assertEqual(made.returncode, 0, made.stderr)
        return made

    def pids(self):
        written = {path.stem: path.read_text(encoding="utf-8").split() for path in self.run_folder.glob("*.pid")}
        return {name: int(words[1]) for name, words in written.items() if len(words) > 1}  # others are being written

    def running(self):
        """Pids of the programs of this tree."""
        found = set()
        for command in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if command.read_bytes().startswith(str(self.bin).encode()):
                    found.add(int(command.parent.name))
            except OSError:  # ended meanwhile
                pass
        return found

    def test_ask_restart_stop(self):
        first = self.ask()
        pids = self.pids()
        self.assertEqual(set(pids), {"router", "gateway", "expert-worker-1", "expert-worker-2"})
        # One session, so that the kernel schedules them as one group; not ours, whose end would be theirs.
        sessions = {os.getsid(pid) for pid in pids.values()}
        self.assertEqual(len(sessions), 1, sessions)
        self.assertNotIn(os.getsid(0), sessions)
        self.assertEqual({os.getpgid(pid) for pid in pids.values()}, set(pids.values()))

        status = self.quickstart("--status")
        self.assertEqual(status.returncode, 0, status.stderr)
        for name, pid in pids.items():
            self.assertRegex(status.stdout, rf"{name} +running, pid {pid}, ")

        again = self.ask()
        self.assertEqual(again.stdout, first.stdout)
        self.assertIn("using the cluster that is running", again.stderr)
        self.assertEqual(self.pids(), pids)

        more = self.ask("--workers", "3", "--model-name", "my-moe")
        address = self.options[self.options.index("--http-address") + 1]
        models = cluster.Client(address, None).get("/v1/models").json()["data"]
        self.assertEqual([model["id"] for model in models], ["my-moe"])
        self.assertEqual(more.stdout, first.stdout)
        self.assertFalse(set(pids.values()) & self.running())
        pids = self.pids()
        self.assertEqual(len(pids), 5)
        self.assertEqual(len({os.getsid(pid) for pid in pids.values()}), 1)

        stopped = self.quickstart("--stop")
        self.assertEqual(stopped.returncode, 0, stopped.stderr)
        self.assertEqual(self.running(), set())
        self.assertEqual(self.pids(), {})
        self.assertIn("nothing is running", self.quickstart("--status").stderr)

    def test_start_that_fails_leaves_nothing(self):
        broken = self.root / "broken.gguf"
        broken.write_bytes(b"no model")
        made = self.quickstart(*self.options[:-1], str(broken), "A prompt")
        self.assertEqual(made.returncode, 1)
        self.assertIn("router ended before it was ready", made.stderr)
        self.assertEqual((self.pids(), self.running()), ({}, set()))

    def test_interrupt_while_starting_leaves_nothing(self):
        # Never ready, for want of workers.
        worker = self.bin / "moepool-expert-worker"
        worker.unlink()
        worker.write_text('#!/bin/bash\nexec -a "$0" sleep 1000\n', encoding="utf-8")
        worker.chmod(0o755)
        with subprocess.Popen(self.command(*self.options), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=self.environment()) as starting:
            wait_for(lambda: "expert-worker-2" in self.pids(), "both workers")
            starting.terminate()
            self.assertEqual(starting.wait(PATIENCE_S), 130)
        self.assertEqual((self.pids(), self.running()), ({}, set()))


if __name__ == "__main__":
    cluster.main()
