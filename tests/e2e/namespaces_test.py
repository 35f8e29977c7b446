"""Two machines, played by two network namespaces: a worker that dials in over the wire, and a wire that is cut.

Needs root and iproute2. Where namespaces cannot be made, ends with 77 (skipped), or fails if MOEPOOL_REQUIRE_NETNS=1.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, slow_mixtral

SKIPPED = 77
ROUTER_IP, WORKER_IP = "10.213.7.1", "10.213.7.2"
NEAR, FAR = f"moepool-near-{os.getpid()}", f"moepool-far-{os.getpid()}"
LONG = tuple(word for key, value in LONG_ANSWER.items() for word in (f"--{key.replace('_', '-')}", str(value)))


def ip(*args):
    made = subprocess.run(["ip", *args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if made.returncode != 0:
        raise OSError(f"ip {' '.join(args)}: {made.stdout.decode().strip()}")


def delete_namespaces():
    for name in (NEAR, FAR):
        subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL, check=False)


def make_namespaces():
    ip("netns", "add", NEAR)
    ip("netns", "add", FAR)
    # Made inside the namespaces: nothing of it shows outside.
    ip("-n", NEAR, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", FAR)
    for name, address in ((NEAR, ROUTER_IP), (FAR, WORKER_IP)):
        ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
        ip("-n", name, "link", "set", "lo", "up")
        ip("-n", name, "link", "set", "wire", "up")


class TwoMachinesTest(E2eTest):
    def setUp(self):
        self.addCleanup(delete_namespaces)
        make_namespaces()
        self.model = slow_mixtral()

    def start_pool(self, *router_flags, far_flags=(), worker_flags=()):
        router = self.start("moepool-router", "--model", self.model, "--address", f"{ROUTER_IP}:0", "--insecure",
                            "--metrics-address", "127.0.0.1:0", "--kv-memory", "64MiB", "--min-workers", "2",
                            *router_flags, netns=NEAR)
        self.router = router
        ready = router.wait_ready()
        self.address, self.metrics_address = ready["address"], ready["metrics_address"]
        self.assertTrue(self.address.startswith(f"{ROUTER_IP}:"))
        worker = ("--router", self.address, "--model", self.model, *worker_flags)
        self.near = self.start("moepool-expert-worker", *worker, netns=NEAR, label="near-worker")
        self.far = self.start("moepool-expert-worker", *worker, *far_flags, netns=FAR, label="far-worker")
        gateway = self.start("moepool-gateway", "--router", self.address, "--http-address", "127.0.0.1:0",
                             "--grpc-address", "127.0.0.1:0", netns=NEAR)
        self.client = cluster.Client(None, gateway.wait_ready()["grpc_address"], netns=NEAR)
        self.near.wait_ready()
        self.far.wait_ready()
        cluster.wait_for(lambda: self.client.try_generate("ready?", "--max-tokens", "1").returncode == 0,
                         "the gateway to be ready")

    def workers(self):
        made = cluster.tool("status", "--json", "--router", self.address, netns=NEAR)
        return json.loads(made.stdout)["workers"]

    def undisturbed(self, *flags):
        serve = self.start("moepool", "serve", "--model", self.model, "--http-address", "127.0.0.1:0",
                           "--grpc-address", "127.0.0.1:0", "--kv-memory", "64MiB", label="undisturbed")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        text = client.generate(LONG_PROMPT, *flags)
        serve.kill()
        return text

    def begin(self):
        """A long answer under way: the process and what it has said so far."""
        generate = subprocess.Popen(
            cluster.bound_command(NEAR, [str(cluster.BIN / "moepool"), "generate", "--gateway",
                                         self.client.grpc_address, *LONG, LONG_PROMPT]),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=cluster.environment())
        self.addCleanup(generate.kill)
        return generate, os.read(generate.stdout.fileno(), 4096)

    def test_a_worker_on_another_machine(self):
        self.start_pool()
        transports = {w["name"].rsplit(":", 1)[1]: w["transport"] for w in self.workers()}
        self.assertEqual(transports, {str(self.near.pid): "shm", str(self.far.pid): "grpc"})
        flags = ("--max-tokens", "60", "--temperature", "1", "--seed", "3")
        self.assertEqual(self.client.generate(LONG_PROMPT, *flags), self.undisturbed(*flags))
        for worker in self.workers():
            self.assertGreater(worker["dispatches"], 0, worker)

    def test_two_micro_batches(self):
        """The prompt's rows go over the wire in two halves; some workers are near, so that both carriers have two open."""
        self.start_pool("--micro-batches", "2")
        flags = ("--max-tokens", "20", "--temperature", "1", "--seed", "5")
        self.assertEqual(self.client.generate(LONG_PROMPT, *flags), self.undisturbed(*flags))
        metrics = subprocess.run(cluster.bound_command(NEAR, ["curl", "-s", f"http://{self.metrics_address}/metrics"]),
                                 stdout=subprocess.PIPE, check=True).stdout.decode()
        counted = [line for line in metrics.splitlines()
                   if line.startswith('moepool_engine_steps_by_micro_batches_total{micro_batches="2"}')]
        self.assertGreater(float(counted[0].split()[1]), 0)

    def test_containers_of_one_machine_share_a_directory(self):
        """Abstract sockets end where a network namespace does; a file in a directory that both have does not."""
        with tempfile.TemporaryDirectory(prefix="moepool-shm-") as folder:
            mounted = f"{folder}/mounted"
            os.symlink(folder, mounted)  # another path to the same directory, as in another container
            self.start_pool("--shm-dir", folder, worker_flags=("--shm-dir", mounted))
            self.assertEqual([w["transport"] for w in self.workers()], ["shm", "shm"])
            self.client.generate(LONG_PROMPT, "--max-tokens", "20")
            self.far.kill()  # seen by the end of the socket: its process need not be visible
            cluster.wait_for(lambda: [w["experts"] for w in self.workers()] == ["0-15"], "the near one to hold all")
            self.client.generate(LONG_PROMPT, "--max-tokens", "20")
            self.router.signal(signal.SIGTERM)
            self.assertEqual(self.router.wait_exit(), 0)
            self.assertEqual(os.listdir(folder), ["mounted"], "the socket's file is removed")

    def test_the_wire_is_cut_and_mended(self):
        self.start_pool("--dispatch-timeout", "0.5")
        generate, said = self.begin()
        ip("-n", NEAR, "link", "set", "wire", "down")
        rest, error = generate.communicate(timeout=cluster.PATIENCE_S)
        self.assertEqual(generate.returncode, 0, error)
        self.assertEqual((said + rest).decode(), self.undisturbed(*LONG))
        self.assertEqual([w["transport"] for w in self.workers()], ["shm"])
        self.assertTrue(self.far.alive())
        ip("-n", NEAR, "link", "set", "wire", "up")
        cluster.wait_for(lambda: sorted(w["experts"] for w in self.workers()) == ["0-7", "8-15"],
                         "the far worker to come back")

    def test_the_wire_is_cut_and_nobody_can_take_over(self):
        held = os.path.getsize(self.model)  # more than all experts, so that half of it is more than half of them
        limit = ("--memory-limit", str(int(held * 0.6)))
        self.start_pool("--dispatch-timeout", "0.5", "--holder-timeout", "0.5", far_flags=limit)
        self.near.signal(signal.SIGTERM)  # the far one cannot hold all, so the near one leaves a gap
        self.assertEqual(self.near.wait_exit(), 0)
        failed = self.client.try_generate(LONG_PROMPT)
        self.assertEqual(failed.returncode, 1)
        self.assertIn(b"UNAVAILABLE", failed.stderr)
        near = self.start("moepool-expert-worker", "--router", self.address, "--model", self.model, *limit, netns=NEAR,
                          label="near-worker")
        near.wait_ready()
        cluster.wait_for(lambda: self.client.try_generate("ready?", "--max-tokens", "1").returncode == 0, "the pool")
        generate, _ = self.begin()
        ip("-n", NEAR, "link", "set", "wire", "down")
        _, error = generate.communicate(timeout=cluster.PATIENCE_S)
        self.assertEqual(generate.returncode, 1)
        self.assertIn(b"UNAVAILABLE", error)
        self.assertTrue(self.router.alive())


def namespaces_can_be_made():
    try:
        make_namespaces()
        return True
    except OSError as error:
        print(f"network namespaces cannot be made: {error}", file=sys.stderr)
        return False
    finally:
        delete_namespaces()


if __name__ == "__main__":
    if not namespaces_can_be_made():
        sys.exit(1 if os.environ.get("MOEPOOL_REQUIRE_NETNS") == "1" else SKIPPED)
    cluster.main()
