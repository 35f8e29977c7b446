"""The Kubernetes manifests: rendered by a current kubectl, valid by Kubernetes' own schemas, and true to the programs.

Each check is shown to find what it is there for, by manifests with a fault put in."""

import copy
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

import yaml

import kubernetes_checks
import settings

FOLDER = settings.ROOT / "deploy" / "kubernetes"
TOOLS = pathlib.Path(sys.executable).parent  # of the environment of tests/clients
OVERLAYS = {"cpu": [], "gpu": [], "cpu with monitoring": ["servicemonitors", "prometheus-rules"]}
CUSTOM = ("ServiceMonitor", "PrometheusRule")  # not Kubernetes' own


def kustomize(files):
    """The objects of a folder with these files, {name: text}, in which ../deploy is the tree's."""
    with tempfile.TemporaryDirectory(prefix="moepool-kustomize-") as scratch:
        relative = os.path.relpath(settings.ROOT / "deploy", pathlib.Path(scratch).resolve())
        for name, text in files.items():
            (pathlib.Path(scratch) / name).write_text(text.replace("../deploy", relative), encoding="utf-8")
        made = subprocess.run([TOOLS / "kubectl", "kustomize", scratch], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, check=False)
    if made.returncode != 0 or made.stderr:
        raise AssertionError(f"kubectl kustomize: {made.returncode}: {made.stderr}\n{files}")
    return list(yaml.load_all(made.stdout, Loader=yaml.CSafeLoader))


def render(overlay, components):
    """The overlay's objects, with the components added as a user would add them."""
    return kustomize({"kustomization.yaml": yaml.safe_dump({
        "resources": [f"../deploy/kubernetes/overlays/{overlay}"],
        "components": [f"../deploy/kubernetes/components/{c}" for c in components], "namespace": "moepool"})})


def render_readme():
    """The overlay that deploy/README.md shows."""
    text = (settings.ROOT / "deploy/README.md").read_text(encoding="utf-8")
    (overlay,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.M | re.S)
    router = (FOLDER / "base/router-settings.yaml").read_text(encoding="utf-8")
    return kustomize({"kustomization.yaml": overlay, "router.yaml": router.replace("min-workers: 2", "min-workers: 4")})


class ManifestsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.flags = settings.all_flags()
        cls.rendered = {name: render(name.split()[0], components) for name, components in OVERLAYS.items()}
        cls.rendered["README"] = render_readme()

    def one(self, objects, kind, name):
        (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
        return found

    def test_schemas(self):
        own = [o for objects in self.rendered.values() for o in objects if o["kind"] not in CUSTOM]
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.dump_all(own, file, Dumper=yaml.CSafeDumper)
            file.flush()
            made = subprocess.run([TOOLS / "kubernetes-validate", "--strict", file.name], stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)
        self.assertEqual(made.returncode, 0, made.stdout)
        self.assertEqual(made.stdout.count("passed for resource"), len(own), made.stdout)

    def test_nothing_is_left_out(self):
        kinds = {(o["kind"], o["metadata"]["name"]) for o in self.rendered["cpu with monitoring"]}
        for kind, name in (("Deployment", "moepool-gateway"), ("HorizontalPodAutoscaler", "moepool-gateway"),
                           ("StatefulSet", "moepool-router"), ("StatefulSet", "moepool-worker"),
                           *(("PodDisruptionBudget", f"moepool-{p}") for p in ("gateway", "router", "worker")),
                           *(("ServiceMonitor", f"moepool-{p}") for p in ("gateway", "router", "worker"))):
            self.assertIn((kind, name), kinds)

    def test_they_agree_with_one_another_and_the_programs(self):
        for name, objects in self.rendered.items():
            with self.subTest(name):
                self.assertEqual(kubernetes_checks.problems(objects, self.flags), [])

    def test_the_readmes_overlay_is_what_it_says(self):
        objects = self.rendered["README"]
        self.assertEqual(self.one(objects, "StatefulSet", "moepool-worker")["spec"]["replicas"], 4)
        images = {c["image"] for w in kubernetes_checks.workloads(objects) for c in kubernetes_checks.pod(w)["containers"]}
        self.assertEqual(images, {f"registry.of.yours/moepool:{settings.project_version()}-cpu"})
        urls = [o["data"]["MODEL_URL"] for o in objects if o["kind"] == "ConfigMap" and "MODEL_URL" in o["data"]]
        self.assertEqual(urls, ["https://models.of.yours/model.gguf"])

    def test_gpus(self):
        for name in ("moepool-router", "moepool-worker"):
            pod = kubernetes_checks.pod(self.one(self.rendered["gpu"], "StatefulSet", name))
            self.assertEqual(pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"], "1")
            self.assertTrue(pod["tolerations"])
            container = pod["containers"][0]
            self.assertTrue(container["image"].endswith("-cuda"))
            environment = {e["name"]: e["value"] for e in container["env"]}
            self.assertEqual(environment["MOEPOOL_BACKEND"], "cuda")
            self.assertIn({"name": "shm", "mountPath": "/dev/shm"}, container["volumeMounts"])
            self.assertIn("XDG_CACHE_HOME", environment, "the overlay adds to what is there")

    def test_rules_are_the_tested_ones(self):
        (rule,) = [o for o in self.rendered["cpu with monitoring"] if o["kind"] == "PrometheusRule"]
        groups = [group for file in sorted((settings.ROOT / "deploy/prometheus/rules").glob("*.yaml"))
                  for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
        self.assertTrue(groups)
        self.assertEqual(rule["spec"]["groups"], groups, "run components/prometheus-rules/update.sh")

    def test_faults_are_found(self):
        for what, kind, name, change, expected in FAULTS:
            with self.subTest(what):
                objects = copy.deepcopy(self.rendered["cpu with monitoring"])
                change(self.one(objects, kind, name))
                found = kubernetes_checks.problems(objects, self.flags)
                self.assertTrue(any(expected in problem for problem in found), f"{what}: found {found}")

    def test_faults_in_settings_are_found(self):
        for program, old, new, expected in SETTING_FAULTS:
            with self.subTest(new):
                objects = copy.deepcopy(self.rendered["cpu"])
                (settings_map,) = [o for o in objects if o["kind"] == "ConfigMap" and
                                   o["metadata"]["name"].startswith(f"moepool-{program}-")]
                file = f"{program}.yaml"
                self.assertIn(old, settings_map["data"][file])
                settings_map["data"][file] = settings_map["data"][file].replace(old, new)
                found = kubernetes_checks.problems(objects, self.flags)
                self.assertTrue(any(expected in problem for problem in found), f"{new}: found {found}")

    def test_a_policy_too_many_and_too_few(self):
        base = self.rendered["gpu"]
        for gone in ("router", "worker", "gateway", "dns", "nothing-but"):
            with self.subTest(gone):
                left = [o for o in base if (o["kind"], o["metadata"]["name"]) != ("NetworkPolicy", gone)]
                self.assertNotEqual(list(kubernetes_checks.problems(left, self.flags)), [], f"without {gone}")
        open_to_all = copy.deepcopy(base)
        del self.one(open_to_all, "NetworkPolicy", "router")["spec"]["ingress"][0]["from"]
        self.assertIn("namespace elsewhere reaches port 50052 of moepool-router",
                      kubernetes_checks.problems(open_to_all, self.flags))


def at(o, *path):
    for step in path:
        o = o[step]
    return o


CONTAINER = ("spec", "template", "spec", "containers", 0)
# what, kind, name, change, part of the problem that must be found
FAULTS = (
    ("a selector of other pods", "Service", "moepool-router",
     lambda o: o["spec"]["selector"].update({"app.kubernetes.io/component": "ruter"}), "selects 0 workloads"),
    ("a deployment without its pods", "Deployment", "moepool-gateway",
     lambda o: at(o, "spec", "template", "metadata", "labels").update({"app.kubernetes.io/name": "x"}),
     "does not select its own pods"),
    ("a target port of another name", "Service", "moepool-gateway",
     lambda o: o["spec"]["ports"][0].update(targetPort="https"), "has no port https"),
    ("a budget for nobody", "PodDisruptionBudget", "moepool-worker",
     lambda o: o["spec"]["selector"]["matchLabels"].update(a="b"), "selects 0 workloads"),
    ("an autoscaler for nobody", "HorizontalPodAutoscaler", "moepool-gateway",
     lambda o: o["spec"]["scaleTargetRef"].update(name="gateway"), "which is not there"),
    ("replicas beside an autoscaler", "Deployment", "moepool-gateway",
     lambda o: o["spec"].update(replicas=3), "replicas of its own"),
    ("a monitor of another port", "ServiceMonitor", "moepool-router",
     lambda o: o["spec"]["endpoints"][0].update(port="http"), "has no port http"),
    ("a probe of another port", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER, "livenessProbe", "grpc").update(port=50052), "which the container has not"),
    ("a probe for another service", "StatefulSet", "moepool-router",
     lambda o: at(o, *CONTAINER, "readinessProbe", "grpc").update(service="moepool.v1.Pool"), "which no proto has"),
    ("no probe", "StatefulSet", "moepool-router",
     lambda o: at(o, *CONTAINER).pop("startupProbe"), "no startupProbe"),
    ("a grace shorter than the drain", "StatefulSet", "moepool-router",
     lambda o: at(o, "spec", "template", "spec").update(terminationGracePeriodSeconds=35), "is killed after 35 s"),
    ("a long wait before the drain", "Deployment", "moepool-gateway",
     lambda o: at(o, *CONTAINER, "lifecycle", "preStop", "sleep").update(seconds=10), "is killed after 45 s"),
    ("an image of today", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER).update(image="registry.example.com:5000/moepool"), "is not pinned"),
    ("the latest image", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER).update(image="moepool:latest"), "is not pinned"),
    ("root", "StatefulSet", "moepool-worker",
     lambda o: at(o, "spec", "template", "spec", "securityContext").pop("runAsNonRoot"), "may run as root"),
    ("a writable root", "Deployment", "moepool-gateway",
     lambda o: at(o, *CONTAINER, "securityContext").update(readOnlyRootFilesystem=False), "root can be written"),
    ("privileges", "Deployment", "moepool-gateway",
     lambda o: at(o, *CONTAINER, "securityContext").pop("capabilities"), "privileges are not dropped"),
    ("a token", "Deployment", "moepool-gateway",
     lambda o: at(o, "spec", "template", "spec").pop("automountServiceAccountToken"), "has a token"),
    ("links of services", "StatefulSet", "moepool-worker",
     lambda o: at(o, "spec", "template", "spec").pop("enableServiceLinks"), "links of services"),
    ("a volume that is not there", "StatefulSet", "moepool-router",
     lambda o: at(o, *CONTAINER, "volumeMounts", 1).update(name="models"), "no volume models"),
    ("a secret that nobody makes", "Deployment", "moepool-gateway",
     lambda o: at(o, "spec", "template", "spec", "volumes", 1, "secret").update(secretName="keys"), "no Secret keys"),
    ("an account that is not there", "StatefulSet", "moepool-worker",
     lambda o: at(o, "spec", "template", "spec").update(serviceAccountName="worker"), "no ServiceAccount worker"),
    ("fewer workers than the router waits for", "StatefulSet", "moepool-worker",
     lambda o: o["spec"].update(replicas=1), "the router waits for 2 workers of 1"),
    ("too little memory", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER, "resources", "limits").update(memory="6Gi"), "for experts of 6Gi in all"),
    ("no limit", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER, "resources").pop("limits"), "no limit of memory"),
    ("a flag that is none", "StatefulSet", "moepool-worker",
     lambda o: at(o, *CONTAINER, "env").append({"name": "MOEPOOL_GPUS", "value": "1"}), "no flag --gpus"),
    ("a policy for nobody", "NetworkPolicy", "worker",
     lambda o: o["spec"]["podSelector"]["matchLabels"].update(a="b"), "selects no pod"),
    ("a policy of another port", "NetworkPolicy", "router",
     lambda o: o["spec"]["ingress"][0]["ports"][0].update(port="http"),
     "moepool-gateway is kept from port 50052 of moepool-router"),
    ("metrics for nobody", "NetworkPolicy", "worker",
     lambda o: o["spec"]["ingress"].pop(), "namespace monitoring is kept from port 9102"),
    ("no word with the router", "NetworkPolicy", "gateway",
     lambda o: o["spec"]["egress"].pop(), "moepool-gateway is kept from port 50052"),
)
# program, text of its settings, what stands there instead, part of the problem that must be found
SETTING_FAULTS = (
    ("router", "min-workers: 2", "min-worker: 2\nmin-workers: 2", "no flag --min-worker"),
    ("router", "0.0.0.0:50052", "0.0.0.0:50053", "is no port of the container"),
    ("gateway", "moepool-router:50052", "router:50052", "is no service of these"),
    ("gateway", "0.0.0.0:8000", "0.0.0.0:8080", "usually 8000"),
    ("worker", "memory-limit: 6GiB", "memory-limit: 9GiB", "for experts of 8Gi in all"),
    ("gateway", "max-body-bytes: 1048576", "max-body-bytes: 8388608", "more than half of 1Gi"),
    ("worker", "drain-timeout: 30", "drain-timeout: 300", "its drain takes up to 305 s"),
)


if __name__ == "__main__":
    unittest.main()
