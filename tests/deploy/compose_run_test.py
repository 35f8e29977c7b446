"""The compose files, brought up by podman-compose: on one machine, watched by a Prometheus, and on two machines that are
network namespaces. The programs are in an image as collect.sh makes them for Dockerfile.cpu; images of others, which come
from registries, are played by Debian's programs.

Needs root and what deploy/packages.sh nightly installs.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import compose_files
import settings
from commands import run
from machines import Machine

sys.path.insert(0, str(settings.ROOT / "tests" / "e2e"))
import cluster  # noqa: E402
import processes  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MOEPOOL_BUILD", settings.BIN.parent))
COLLECT = settings.ROOT / "deploy" / "docker" / "collect.sh"
SHELL = ("dash", "chmod", "curl", "cut", "dirname", "mkdir", "mv", "rm", "sha256sum")
QUESTION = {"prompt": "from a container", "max_tokens": 12}


def collect(root, *programs):
    """An archive of a root with these programs."""
    run(COLLECT, root, 10001, *programs)
    return pack(root)


def pack(root):
    run("tar", "--create", "--file", root.with_suffix(".tar"), "--directory", root, ".")
    return root.with_suffix(".tar")


def with_prompt(text, key):
    return ("--header", f"Authorization: Bearer {key}", "--header", "Content-Type: application/json", "--data",
            json.dumps(text))


class ComposeRunTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="moepool-compose-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        run("cmake", "--install", BUILD, "--prefix", cls.folder / "installed", "--strip")
        cls.ours = collect(cls.folder / "ours", *sorted((cls.folder / "installed/bin").iterdir()))
        collect(cls.folder / "fetch", *(shutil.which(name) for name in SHELL))
        (cls.folder / "fetch/usr/bin/sh").symlink_to("dash")
        cls.fetch = pack(cls.folder / "fetch")
        cls.web = cls.folder / "web"
        cls.web.mkdir()
        shutil.copy(cluster.tiny_mixtral(), cls.web / "model.gguf")

    def machine(self, number):
        """A machine with the images, and deploy/ set up as deploy/README.md says."""
        machine = Machine(number)
        self.addCleanup(machine.remove)
        machine.add_image("localhost/moepool:test", self.ours, "ENV PATH=/usr/bin", "ENV XDG_CACHE_HOME=/var/cache",
                          "USER 10001:10001")
        machine.add_image("localhost/fetch:test", self.fetch, "ENV PATH=/usr/bin", "USER 100")
        machine.deploy = machine.folder / "deploy"
        shutil.copytree(settings.ROOT / "deploy", machine.deploy, ignore=shutil.ignore_patterns(".env", "secrets"))
        (machine.deploy / "compose/secrets").mkdir()
        made = subprocess.run([settings.BIN / "moepool", "key", "me"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True, check=True)
        machine.key = re.search(r"mp-\S+", made.stderr).group()
        (machine.deploy / "compose/secrets/api-keys").write_text(made.stdout, encoding="utf-8")
        return machine

    def serve_model(self, machine):
        server = subprocess.Popen(machine.command(sys.executable, "-m", "http.server", "--directory", self.web, "--bind",
                                                  machine.address, "8080"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.addCleanup(server.wait)
        self.addCleanup(server.kill)
        return f"http://{machine.address}:8080/model.gguf"

    def bring_up(self, machine, url, files, *services, **variables):
        sha256 = hashlib.sha256((self.web / "model.gguf").read_bytes()).hexdigest()
        env = {**compose_files.example_env(), "MOEPOOL_IMAGE": "localhost/moepool:test", "FETCH_IMAGE": "localhost/fetch:test",
               "MODEL_URL": url, "MODEL_SHA256": sha256, **variables}
        folder = machine.deploy / "compose"
        machine.compose([folder / file for file in files], "up", "--detach", *services, **env)

    def pool(self, machine, workers):
        """Of a router's container, once all workers are in."""
        def look():
            said = machine.podman("exec", "moepool_router_1", "moepool", "status", "--router", "127.0.0.1:50052", "--json")
            status = json.loads(said)
            return status if status["ready"] and len(status["workers"]) == workers else None
        return processes.wait_for(look, f"{workers} workers")

    def answer(self, machine):
        status, body = machine.get("http://127.0.0.1:8000/infer", *with_prompt(QUESTION, machine.key))
        self.assertEqual(status, 200, body)
        return json.loads(body)["text"]

    def expected_answer(self):
        made = processes.tool("generate", "--gateway", self.alone().wait_ready()["grpc_address"], "--max-tokens",
                              QUESTION["max_tokens"], "--", QUESTION["prompt"])
        self.assertEqual(made.returncode, 0, made.stderr)
        return made.stdout.decode().removesuffix("\n")

    def alone(self):
        """The same model in one process."""
        process = processes.Process("moepool", "serve", "--model", self.web / "model.gguf", "--http-address", "127.0.0.1:0",
                                    "--grpc-address", "127.0.0.1:0", "--kv-memory", "64MiB")
        self.addCleanup(process.kill)
        return process

    def test_one_machine_and_who_watches_it(self):
        machine = self.machine(1)
        machine.wire(self.machine(2))
        secrets = machine.deploy / "compose/secrets"
        (secrets / "metrics-key").write_text("of-prometheus", encoding="utf-8")
        with (secrets / "api-keys").open("a", encoding="utf-8") as file:
            file.write(f"prometheus:{hashlib.sha256(b'of-prometheus').hexdigest()}\n")
        watching = compose_files.load(compose_files.FOLDER / "monitoring.yaml", {"GRAFANA_PASSWORD": "x"})["services"]
        for name, program in (("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")):
            collect(self.folder / name, shutil.which(program))
            for templates in pathlib.Path("/usr/share/prometheus").glob(name):
                shutil.copytree(templates, self.folder / name / str(templates)[1:])
            (self.folder / name / name).mkdir()
            os.chown(self.folder / name / name, 65534, 65534)
            machine.add_image(watching[name]["image"], pack(self.folder / name), f"WORKDIR /{name}", "USER 65534",
                              f'ENTRYPOINT ["/usr/bin/{program}"]')
        self.bring_up(machine, self.serve_model(machine), ["compose.yaml", "monitoring.yaml"], "gateway", "worker", "prometheus",
                      "alertmanager", GRAFANA_PASSWORD="x")
        machine.wait_healthy("router_1", "worker_1", "worker_2", "gateway_1")
        self.assertEqual([w["transport"] for w in self.pool(machine, 2)["workers"]], ["shm", "shm"])
        self.assertEqual(self.answer(machine), self.expected_answer())
        self.assertEqual(machine.get("http://127.0.0.1:8000/v1/models")[0], 401)
        # What nobody outside is to reach is published nowhere.
        listening = machine.run("ss", "--listening", "--tcp", "--numeric", "--no-header")
        self.assertEqual(sorted(set(re.findall(r"127\.0\.0\.1:(\d+)", listening))), ["50051", "8000", "9090", "9093"],
                         machine.logs())
        containers = machine.containers()
        self.assertEqual(containers["model_1"]["State"]["ExitCode"], 0)
        for name in ("router_1", "worker_1", "worker_2", "gateway_1"):
            self.assertTrue(containers[name]["HostConfig"]["ReadonlyRootfs"], name)
            self.assertEqual(containers[name]["EffectiveCaps"] or [], [], name)
            self.assertGreater(containers[name]["HostConfig"]["Memory"], 0, name)

        def scraped():
            found = json.loads(machine.get("http://127.0.0.1:9090/api/v1/query?query=up")[1])["data"]["result"]
            return sorted((one["metric"]["job"], one["value"][1]) for one in found) == [
                ("moepool-gateway", "1"), ("moepool-router", "1"), *[("moepool-worker", "1")] * 2, ("prometheus", "1")]
        processes.wait_for(scraped, "Prometheus to scrape all processes")
        managers = json.loads(machine.get("http://127.0.0.1:9090/api/v1/alertmanagers")[1])["data"]
        self.assertEqual([m["url"] for m in managers["activeAlertmanagers"]], ["http://alertmanager:9093/api/v2/alerts"])

        machine.podman("stop", "--time", "45", *(f"moepool_{n}" for n in ("gateway_1", "router_1", "worker_1", "worker_2")))
        for name in ("gateway_1", "router_1", "worker_1", "worker_2"):
            self.assertEqual(machine.containers()[name]["State"]["ExitCode"], 0, f"{name} does not drain\n{machine.logs()}")

    def test_two_machines(self):
        first, further = self.machine(1), self.machine(2)
        first.wire(further)
        url = self.serve_model(first)
        self.bring_up(first, url, ["compose.yaml", "several-machines/first.yaml"], WORKERS="1", POOL_WORKERS="2",
                      PRIVATE_ADDRESS=first.address)
        self.bring_up(further, url, ["several-machines/further.yaml"], WORKERS="1", FIRST_MACHINE=first.address)
        first.wait_healthy("router_1", "worker_1", "gateway_1")
        further.wait_healthy("worker_1")
        self.assertEqual(sorted(w["transport"] for w in self.pool(first, 2)["workers"]), ["grpc", "shm"])
        self.assertEqual(self.answer(first), self.expected_answer())


if __name__ == "__main__":
    unittest.main(verbosity=2)
