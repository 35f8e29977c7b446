"""Installation by installing: `cmake --install` into a prefix that is moved and run, and the Debian package that cpack
makes, taken apart."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

import settings
from commands import run

sys.path.insert(0, str(settings.ROOT / "tests" / "e2e"))
import cluster  # noqa: E402
import processes  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MOEPOOL_BUILD", settings.BIN.parent))
PROGRAMS = ("moepool", *settings.PROGRAMS)
UNITS = ("moepool.slice", "moepool-gateway.service", "moepool-router.service", "moepool-expert-worker@.service")
SERVICES = ("moepool-gateway.service", "moepool-router.service", "moepool-expert-worker@1.service")
SETTINGS = ("api-keys", "expert-worker.yaml", "gateway.yaml", "router.yaml")
# systemd-analyze's measure, from 0 (nothing is exposed) to 10.
MOST_EXPOSURE = 3.0


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def verify(root):
    """Has systemd look at the units under an installed root, whose programs are where the units say. Any word of it is a
    complaint."""
    for target in ("basic", "multi-user", "network-online", "shutdown", "slices", "sysinit"):
        (root / f"usr/lib/systemd/system/{target}.target").write_text("[Unit]\nDescription=systemd's own\n")
    for service in SERVICES:
        said = run("systemd-analyze", "verify", "--man=no", f"--root={root}", service)
        if said:
            raise AssertionError(f"systemd-analyze verify {service}: {said}")


def exposure(root, service):
    """By systemd-analyze's measure."""
    said = run("systemd-analyze", "security", "--offline=true", "--no-pager", f"--root={root}", service)
    return float(re.search(r"exposure level for \S+: ([0-9.]+)", said).group(1))


class PrefixTest(cluster.E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="moepool-install-")
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.prefix = pathlib.Path(cls.scratch.name) / "first"
        run("cmake", "--install", BUILD, "--prefix", cls.prefix)

    def test_what_is_there(self):
        there = files(self.prefix)
        for name in (*(f"bin/{p}" for p in PROGRAMS), *(f"lib/systemd/system/{u}" for u in UNITS),
                     *(f"etc/moepool/{s}" for s in SETTINGS), "share/doc/moepool/LICENSE", "share/doc/moepool/README.md",
                     "share/doc/moepool/docs/architecture.md", "share/moepool/proto/inference.proto",
                     "share/moepool/systemd/gpu.conf"):
            self.assertIn(name, there)
        self.assertEqual({f for f in there if f.startswith("bin/")}, {f"bin/{p}" for p in PROGRAMS})
        units = "".join((self.prefix / "lib/systemd/system" / u).read_text() for u in UNITS)
        self.assertNotIn("@bindir@", units)
        self.assertEqual(set(re.findall(r"^ExecStart=(\S+) --config (\S+)$", units, re.M)),
                         {(f"{self.prefix}/bin/moepool-{p}", f"{self.prefix}/etc/moepool/{p}.yaml")
                          for p in ("gateway", "router", "expert-worker")})

    def test_the_manifest_takes_everything_away(self):
        copy = self.prefix.parent / "second"
        run("cmake", "--install", BUILD, "--prefix", copy)
        manifest = (BUILD / "install_manifest.txt").read_text().splitlines()
        self.assertEqual({os.path.relpath(line, copy) for line in manifest}, files(copy))

    def test_it_runs_where_it_was_moved(self):
        moved = self.prefix.parent / "moved"
        shutil.copytree(self.prefix, moved)
        model = cluster.tiny_mixtral()
        self.addCleanup(setattr, processes, "BIN", processes.BIN)
        processes.BIN = moved / "bin"

        def start(program, **variables):
            env = {f"MOEPOOL_{name.upper()}": str(value) for name, value in variables.items()}
            settings_file = moved / "etc/moepool" / f"{program.removeprefix('moepool-')}.yaml"
            return self.start(program, "--config", settings_file, env=env)
        router = start("moepool-router", model=model, address="127.0.0.1:0", metrics_address="127.0.0.1:0",
                       kv_memory="64MiB")
        address = router.wait_ready()["address"]
        worker = start("moepool-expert-worker", model=model, router=address)
        gateway = start("moepool-gateway", router=address, http_address="127.0.0.1:0", grpc_address="127.0.0.1:0")
        worker.wait_ready()
        client = cluster.Client(gateway.wait_ready()["http_address"], gateway.wait_ready()["grpc_address"])
        client.wait_ready()
        self.assertTrue(client.infer("moved", max_tokens=4)["text"])
        cluster.wait_for(lambda: processes.tool("health", address, "--service", "moepool.trunk.v1.Trunk").returncode == 0,
                         "the router, which looks now and then, to say that it serves")
        for at, service in ((gateway.wait_ready()["grpc_address"], "moepool.v1.Inference"),
                            (address, "moepool.trunk.v1.Trunk"),
                            (worker.wait_ready()["address"], "moepool.experts.v1.ExpertPool")):
            healthy = processes.tool("health", at, "--service", service)
            self.assertEqual((healthy.returncode, healthy.stdout), (0, b"serving\n"), healthy.stderr)
        worker.signal(signal.SIGTERM)
        self.assertEqual(worker.wait_exit(), 0)
        cluster.wait_for(lambda: processes.tool("health", address, "--service", "moepool.trunk.v1.Trunk").returncode == 1,
                         "the router to say that no expert has a holder")
        self.assertIn(b"NOT_SERVING", processes.tool("health", address, "--service", "moepool.trunk.v1.Trunk").stderr)
        self.assertIn(b"NOT_FOUND", processes.tool("health", address, "--service", "moepool.Nobody").stderr)
        for process in (gateway, router):
            process.signal(signal.SIGTERM)
            self.assertEqual(process.wait_exit(), 0)
            self.assertEqual(processes.tool("health", address if process is router else
                                            gateway.wait_ready()["grpc_address"]).returncode, 1)


class PackageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory(prefix="moepool-package-")
        cls.addClassCleanup(cls.scratch.cleanup)
        scratch = pathlib.Path(cls.scratch.name)
        run("cpack", "--config", BUILD / "CPackConfig.cmake", "-G", "DEB", "-B", scratch / "made")
        (cls.package,) = (scratch / "made").glob("*.deb")
        cls.root, cls.control = scratch / "root", scratch / "control"
        run("dpkg-deb", "--extract", cls.package, cls.root)
        run("dpkg-deb", "--control", cls.package, cls.control)

    def test_control(self):
        self.assertRegex(self.package.name, r"^moepool_[0-9.]+_amd64\.deb$")
        fields = dict(re.findall(r"^([\w-]+): (.*)$", (self.control / "control").read_text(), re.M))
        for library in ("libc6 (", "libgrpc++1.51", "libprotobuf32", "libpcre2-8-0", "adduser"):
            self.assertIn(library, fields["Depends"])
        for name in ("postinst", "prerm", "postrm"):
            self.assertEqual((self.control / name).stat().st_mode & 0o777, 0o755)
            run("sh", "-n", self.control / name)
        there = {f"/{f}" for f in files(self.root) if f.startswith("etc/")}
        self.assertEqual(set((self.control / "conffiles").read_text().split()), there)
        self.assertEqual(there, {f"/etc/moepool/{s}" for s in SETTINGS})

    def test_contents(self):
        there = files(self.root)
        self.assertLess({*(f"usr/bin/{p}" for p in PROGRAMS), *(f"usr/lib/systemd/system/{u}" for u in UNITS),
                         "usr/share/doc/moepool/copyright", "usr/share/doc/moepool/changelog.gz"}, there)
        self.assertEqual({f for f in there if not f.startswith(("usr/", "etc/moepool/"))}, set())
        self.assertEqual((self.root / "etc/moepool/api-keys").stat().st_mode & 0o777, 0o600)
        for program in PROGRAMS:
            self.assertIn(program, run(self.root / "usr/bin" / program, "--version"))
            self.assertNotIn(".debug_info", run("readelf", "-S", self.root / "usr/bin" / program))

    def test_units(self):
        root = self.root.parent / "right"
        shutil.copytree(self.root, root)
        verify(root)

    def give_gpus(self, root):
        for unit in ("moepool-router.service", "moepool-expert-worker@.service"):
            folder = root / f"etc/systemd/system/{unit}.d"
            folder.mkdir(parents=True)
            shutil.copy(root / "usr/share/moepool/systemd/gpu.conf", folder)

    def test_units_with_a_gpu(self):
        root = self.root.parent / "gpu"
        shutil.copytree(self.root, root)
        self.give_gpus(root)
        verify(root)
        # Devices alone are let in: what else the units keep out stays out.
        for service in SERVICES[1:]:
            self.assertLessEqual(exposure(root, service), MOST_EXPOSURE, service)
        dropped = root / "etc/systemd/system/moepool-router.service.d/gpu.conf"
        dropped.write_text(dropped.read_text().replace("DevicePolicy=closed", "DevicePolicy=shut"))
        with self.assertRaisesRegex(AssertionError, "(?i)device ?policy"):
            verify(root)

    def test_a_unit_that_is_wrong_is_found(self):
        root = self.root.parent / "wrong"
        shutil.copytree(self.root, root)
        (root / "usr/bin/moepool-router").unlink()
        with self.assertRaisesRegex(AssertionError, "moepool-router"):
            verify(root)

    def test_little_is_exposed(self):
        for service in SERVICES:
            self.assertLessEqual(exposure(self.root, service), MOST_EXPOSURE, service)

    def test_router_and_workers_are_one_scheduling_group_and_one_user(self):
        folder = self.root / "usr/lib/systemd/system"
        for unit in ("moepool-router.service", "moepool-expert-worker@.service"):
            lines = (folder / unit).read_text().splitlines()
            self.assertIn("Slice=moepool.slice", lines)
            self.assertIn("User=moepool", lines)
            # A weight or quota of its own would make the unit a group of its own.
            self.assertEqual([line for line in lines if re.match("CPU|StartupCPU|AllowedCPUs", line)], [])
        self.assertIn("DisableControllers=cpu", (folder / "moepool.slice").read_text().splitlines())

    def test_units_outlast_the_drain(self):
        flags = settings.all_flags()
        for unit, program in zip(UNITS[1:], ("moepool-gateway", "moepool-router", "moepool-expert-worker")):
            text = (self.root / "usr/lib/systemd/system" / unit).read_text()
            limit = float(re.search(r"^TimeoutStopSec=(\d+)$", text, re.M).group(1))
            self.assertGreater(limit, float(flags[program]["drain-timeout"]) + settings.AFTER_DRAIN_S)

    def test_settings_are_flags(self):
        import yaml
        for program in settings.PROGRAMS:
            file = self.root / "etc/moepool" / f"{program.removeprefix('moepool-')}.yaml"
            text = file.read_text()
            given = yaml.safe_load(text)
            offered = yaml.safe_load("\n".join(re.findall(r"^# ([a-z-]+: \S+)$", text, re.M))) or {}
            self.assertEqual(list(settings.unknown_settings(program, {**given, **offered}, settings.flags(program))), [])

    @unittest.skipUnless(shutil.which("lintian"), "lintian is of the nightly packages")
    def test_lintian(self):
        run("lintian", "--allow-root", "--fail-on", "error", self.package)


if __name__ == "__main__":
    cluster.main()
