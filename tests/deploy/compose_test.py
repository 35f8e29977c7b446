"""The compose files: valid by the compose specification's schema, and true to the programs. Each check is shown to find
what it is there for, by projects with a fault put in."""

import copy
import hashlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import compose_checks
import compose_files
import settings

TOOLS = pathlib.Path(sys.executable).parent  # of the environment of tests/clients
ENV = compose_files.example_env()
PROJECTS = {
    "one machine": (["compose.yaml"], {}, ()),
    "one machine, watched": (["compose.yaml", "monitoring.yaml"], {"GRAFANA_PASSWORD": "secret"}, ()),
    **{f"{n} GPUs": (["compose.yaml", "compose.gpu.yaml"], {"GPUS": str(n), "GPU_TRUNK": "4GiB", "GPU_EXPERTS": "18GiB"}, (profile,))
       for n, profile in ((1, "1-gpu"), (2, "2-gpus"), (4, "4-gpus"), (8, "8-gpus"))},
    "the first machine": (["compose.yaml", "several-machines/first.yaml"],
                          {"PRIVATE_ADDRESS": "192.0.2.1", "POOL_WORKERS": "4"}, ()),
    "a further machine": (["several-machines/further.yaml"], {"FIRST_MACHINE": "192.0.2.1"}, ()),
}


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.flags = settings.all_flags()
        cls.projects = {name: compose_files.project(files, {**ENV, **env}, profiles)
                        for name, (files, env, profiles) in PROJECTS.items()}

    def test_schema(self):
        files = sorted(compose_files.FOLDER.rglob("*.yaml"))
        made = subprocess.run([TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *files],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(made.returncode, 0, made.stdout)
        used = {compose_files.FOLDER / file for files, _, _ in PROJECTS.values() for file in files}
        self.assertLessEqual(used, set(files))

    def test_projects(self):
        for name, project in self.projects.items():
            with self.subTest(name):
                self.assertEqual(compose_checks.problems(project, self.flags), [])

    def test_each_gpu_has_a_worker(self):
        for n in (1, 2, 4, 8):
            with self.subTest(n):
                workers = {name: s for name, s in self.projects[f"{n} GPUs"]["services"].items()
                           if compose_checks.program(s) == "moepool-expert-worker"}
                devices = [s["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
                           for s in workers.values()]
                self.assertEqual(devices, [[str(i)] for i in range(n)])
                self.assertTrue(all(s["image"].endswith("-cuda") for s in workers.values()))
                router = self.projects[f"{n} GPUs"]["services"]["router"]
                self.assertEqual(router["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"], ["0"])
                for service, memory in ((router, "4GiB"), *((s, "18GiB") for s in workers.values())):
                    given = settings.variables(service["environment"])
                    self.assertEqual((given["backend"], given["device-memory"], given.get("memory-limit", "0")),
                                     ("cuda", memory, "0"))

    def test_images_are_built_with_options_that_there_are(self):
        def unknown(text):
            known = (settings.ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
            given = set(re.findall(r"-D(MOEPOOL_\w+)=", text))
            self.assertTrue(given)
            return {option for option in given if not re.search(rf"option\({option} ", known)}
        for file in sorted((settings.ROOT / "deploy/docker").glob("Dockerfile.*")):
            text = file.read_text(encoding="utf-8")
            self.assertEqual(unknown(text), set(), file.name)
            self.assertEqual(unknown(text.replace("-DMOEPOOL_TESTS", "-DMOEPOOL_TEST")), {"MOEPOOL_TEST"})

    def test_env_example_names_what_is_asked(self):
        text = (compose_files.FOLDER / "compose.yaml").read_text(encoding="utf-8")
        for name in ENV:
            self.assertIn("${" + name, text, f"env.example sets {name}, which compose.yaml does not read")

    def test_versions_are_the_projects(self):
        deploy, found = settings.ROOT / "deploy", {}
        for path in (p for p in deploy.rglob("*") if p.is_file() and p.suffix != ".json"):
            for version in re.findall(r"moepool[:_](\d[\d.]*\d)[-_]|newTag: ([\d.]+)-|^ARG VERSION=(\S+)$|^moepool \((\S+)\)",
                                      path.read_text(encoding="utf-8"), re.M):
                found.setdefault("".join(version), set()).add(str(path.relative_to(deploy)))
        self.assertEqual(list(found), [settings.project_version()], found)
        self.assertLessEqual({"README.md", "compose/compose.yaml", "compose/env.example", "debian/changelog", "docker/Dockerfile.cpu",
                              "docker/Dockerfile.cuda", "kubernetes/overlays/cpu/kustomization.yaml"}, *found.values())

    def test_faults_are_found(self):
        for what, which, change, expected in FAULTS:
            with self.subTest(what):
                project = copy.deepcopy(self.projects[which])
                change(project)
                found = compose_checks.problems(project, self.flags)
                self.assertTrue(any(expected in problem for problem in found), f"{what}: found {found}")

    def test_the_model_is_fetched_once_and_checked(self):
        with tempfile.TemporaryDirectory(prefix="moepool-fetch-") as scratch:
            source, target = pathlib.Path(scratch, "source"), pathlib.Path(scratch, "models", "model.gguf")
            source.write_bytes(b"weights" * 1000)
            service = self.projects["one machine"]["services"]["model"]
            (script,) = [compose_files.FOLDER / v.split(":")[0] for v in service["volumes"] if ":/fetch-model.sh" in v]
            right = hashlib.sha256(source.read_bytes()).hexdigest()

            def fetch(sha256):
                return subprocess.run(["sh", script, target], stdout=subprocess.PIPE,
                                      stderr=subprocess.PIPE, text=True, check=False,
                                      env={**os.environ, "MODEL_URL": source.as_uri(), "MODEL_SHA256": sha256})
            wrong = fetch("0" * 64)
            self.assertEqual(wrong.returncode, 1)
            self.assertIn(f"has SHA-256 {right}, expected {'0' * 64}", wrong.stderr)
            self.assertEqual(list(target.parent.iterdir()), [], "nothing with the wrong content is left")
            self.assertEqual(fetch(right).returncode, 0)
            self.assertEqual(target.read_bytes(), source.read_bytes())
            source.unlink()
            again = fetch(right)
            self.assertEqual((again.returncode, again.stdout), (0, f"{target} is there\n"), again.stderr)


def service(name):
    return lambda project: project["services"][name]


# what, project, change, part of the problem that must be found
FAULTS = (
    ("a variable that is no flag", "one machine",
     lambda p: service("router")(p)["environment"].update(MOEPOOL_WORKERS="2"), "no flag --workers"),
    ("another port", "one machine",
     lambda p: service("worker")(p)["environment"].update(MOEPOOL_ROUTER="router:50051"), "is not the router's address"),
    ("a router that is not there", "one machine",
     lambda p: service("worker")(p)["environment"].update(MOEPOOL_ROUTER="ruter:50052"), "is no service"),
    ("too many experts", "one machine",
     lambda p: service("worker")(p)["environment"].update(MOEPOOL_MEMORY_LIMIT="4GiB"), "has no more in all"),
    ("bodies without bounds", "one machine",
     lambda p: service("gateway")(p)["environment"].pop("MOEPOOL_MAX_BODY_BYTES"), "more than half of 1g"),
    ("a worker too few", "4 GPUs", lambda p: p["services"].pop("worker-3"), "waits for 4 workers of 3"),
    ("another volume for the socket", "one machine",
     lambda p: service("worker")(p)["volumes"].__setitem__(-1, "cache:/run/moepool"), "is not shared"),
    ("no volume for the socket", "one machine",
     lambda p: service("worker")(p)["volumes"].pop(), "no volume at /run/moepool"),
    ("another user", "one machine", lambda p: service("worker")(p).update(user="10002:10002"), "runs as 10002"),
    ("killed early", "one machine", lambda p: service("gateway")(p).pop("stop_grace_period"), "is killed after 10s"),
    ("a healthcheck by a shell", "one machine",
     lambda p: service("gateway")(p)["healthcheck"].update(test=["CMD-SHELL", "curl localhost:8000/ready"]),
     "no healthcheck that the image can run"),
    ("a healthcheck of another port", "one machine",
     lambda p: service("router")(p)["healthcheck"]["test"].__setitem__(3, "127.0.0.1:50051"), "it listens on [50052]"),
    ("a healthcheck of another service", "one machine",
     lambda p: service("router")(p)["healthcheck"]["test"].__setitem__(5, "moepool.Router"), "which no proto has"),
    ("a file that is not there", "a further machine",
     lambda p: service("model")(p)["volumes"].__setitem__(1, "../fetch-model.sh:/fetch-model.sh:ro"), "to mount"),
    ("a secret that is not there", "one machine", lambda p: p["secrets"].clear(), "secrets has no api-keys"),
    ("a dependency that is not there", "one machine", lambda p: p["services"].pop("model"), "which is not there"),
    ("a healthcheck too few", "one machine",
     lambda p: service("router")(p).pop("healthcheck"), "which has no healthcheck"),
    ("a model fetched for ever", "one machine", lambda p: service("model")(p).update(restart="always"),
     "which starts again"),
    ("a writable root", "a further machine", lambda p: service("worker")(p).update(read_only=False), "a writable root"),
    ("an image of today", "one machine", lambda p: service("gateway")(p).update(image="moepool"), "is not pinned"),
    ("no limit of memory", "one machine", lambda p: service("router")(p)["deploy"].pop("resources"),
     "no limit of memory"),
    ("a router for everyone", "one machine", lambda p: p["networks"]["inside"].clear(), "from which others reach it"),
    ("a router's port for everyone", "one machine",
     lambda p: service("router")(p).update(ports=["50052:50052"]), "publishes 50052:50052"),
    ("the first machine's port for everyone", "the first machine",
     lambda p: service("router")(p).update(ports=["0.0.0.0:50052:50052"]), "publishes 0.0.0.0"),
    ("no key", "one machine", lambda p: service("gateway")(p)["environment"].pop("MOEPOOL_API_KEY_FILE"),
     "lets in who has no key"),
)


if __name__ == "__main__":
    unittest.main()
