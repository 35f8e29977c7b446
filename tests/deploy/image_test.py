"""The CPU image: built by buildah from Dockerfile.cpu over a Debian made by debootstrap, and its programs run as
containers run, not as root and on a root that cannot be written, sharing memory over a directory. And the Debian package:
installed into that Debian and purged again.

Needs root, buildah, debootstrap and Debian's mirror. MOEPOOL_IMAGE_WORK names a folder in which Debian and what the compiler
made stay for the next run. MOEPOOL_IMAGE_ROOT names a root that collect.sh has made already, and leaves the building out.
"""

import functools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import settings
from commands import run

sys.path.insert(0, str(settings.ROOT / "tests" / "e2e"))
import cluster  # noqa: E402
import processes  # noqa: E402

BUILD = pathlib.Path(os.environ.get("MOEPOOL_BUILD", settings.BIN.parent))
MIRROR = os.environ.get("MOEPOOL_DEBIAN_MIRROR", "http://deb.debian.org/debian")
USER = 10001
LARGEST_MIB = 200  # of programs and libraries together


@functools.cache
def work():
    """A folder for what is made once for all tests, or for all runs."""
    if "MOEPOOL_IMAGE_WORK" in os.environ:
        folder = pathlib.Path(os.environ["MOEPOOL_IMAGE_WORK"])
        folder.mkdir(exist_ok=True)
        return folder
    scratch = tempfile.TemporaryDirectory(prefix="moepool-image-work-")
    unittest.addModuleCleanup(scratch.cleanup)
    return pathlib.Path(scratch.name)


@functools.cache
def debian():
    root = work() / "debian"
    if not root.exists():
        half = root.with_suffix(".half")
        run("debootstrap", "--variant=minbase", "bookworm", half, MIRROR)
        half.rename(root)
    return root


class Buildah:
    """Images in a folder of their own; nothing of the machine's is touched."""

    def __init__(self, folder):
        self.options = ("--root", folder / "storage", "--runroot", folder / "run", "--storage-driver", "vfs")
        # Mounts of type cache are in TMPDIR too.
        self.env = {**os.environ, "TMPDIR": str(work()), "BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *args):
        return run("buildah", *self.options, *args, env=self.env).strip()


class ImageTest(cluster.E2eTest):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory(prefix="moepool-image-")
        cls.addClassCleanup(scratch.cleanup)
        cls.folder = pathlib.Path(scratch.name)
        cls.root = os.environ.get("MOEPOOL_IMAGE_ROOT")
        cls.config = None
        if cls.root is None:
            cls.build()
        cls.cache, cls.shared = cls.folder / "cache", cls.folder / "shared"
        for folder in (cls.cache, cls.shared):
            folder.mkdir(mode=0o700)
            os.chown(folder, USER, USER)
        cls.folder.chmod(0o755)
        processes.SCRATCH.chmod(0o755)

    @classmethod
    def build(cls):
        buildah = Buildah(cls.folder)
        base = buildah("from", "scratch")
        buildah("add", "--quiet", base, debian(), "/")
        buildah("commit", "--quiet", base, "localhost/debian:bookworm")
        buildah("rm", base)
        began = time.monotonic()
        buildah("build", "--quiet", "--file", settings.ROOT / "deploy/docker/Dockerfile.cpu",
                "--build-arg", "BASE=localhost/debian:bookworm", "--tag", "localhost/moepool:test", settings.ROOT)
        cls.config = json.loads(buildah("inspect", "--type", "image", "localhost/moepool:test"))["OCIv1"]["config"]
        cls.root = buildah("mount", buildah("from", "localhost/moepool:test"))
        print(f"image: built in {time.monotonic() - began:.0f} s", file=sys.stderr)

    def test_what_the_image_says(self):
        if self.config is None:
            self.assertIsNotNone(os.environ.get("MOEPOOL_IMAGE_ROOT"))
            return
        self.assertEqual(self.config["User"], f"{USER}:{USER}")
        self.assertEqual(self.config["StopSignal"], "SIGTERM")
        self.assertIn("org.opencontainers.image.version", self.config["Labels"])
        self.assertIn("XDG_CACHE_HOME=/var/cache", self.config["Env"])

    def test_it_is_small_and_has_no_shell(self):
        files = [p for p in pathlib.Path(self.root).rglob("*") if p.is_file() and not p.is_symlink()]
        size = sum(p.stat().st_size for p in files) / 2 ** 20
        print(f"image: {size:.0f} MiB in {len(files)} files", file=sys.stderr)
        self.assertLess(size, LARGEST_MIB)
        self.assertEqual({p.name for p in pathlib.Path(self.root, "usr/bin").iterdir()},
                         {"moepool", *settings.PROGRAMS})
        owners = {name: pathlib.Path(self.root, name).stat() for name in ("var/cache/moepool", "run/moepool")}
        self.assertEqual({(s.st_uid, s.st_gid, s.st_mode & 0o777) for s in owners.values()}, {(USER, USER, 0o700)},
                         "volumes take their first owner from these")
        self.assertEqual([str(p) for p in files if p.stat().st_mode & 0o6000], [], "no set-uid programs")
        packages = {p.name for p in pathlib.Path(self.root, "var/lib/dpkg/status.d").iterdir()}
        self.assertLessEqual({"libc6", "libgrpc++1.51", "libstdc++6"}, packages)

    def container(self, name, program, *args, binds=()):
        model = cluster.tiny_mixtral()
        self.addCleanup(setattr, processes, "BIN", processes.BIN)
        processes.BIN = settings.ROOT / "tests" / "deploy"
        mounts = (f"{model.parent}:/models", f"{self.cache}:/var/cache/moepool", f"{self.shared}:/run/moepool", *binds)
        process = self.start("container.sh", self.root, name, USER, *mounts, "--", f"/usr/bin/{program}", *args,
                             env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "XDG_CACHE_HOME": "/var/cache"}, label=name)
        processes.BIN = settings.BIN
        # The program outlives unshare, whose word to the kernel to end it ends with the change of user.
        self.addCleanup(self.signal, process, signal.SIGKILL)
        return process

    @staticmethod
    def signal(process, number):
        """To the program, which is process 1 of its container and the only child of what started it."""
        try:
            children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:
            return
        for child in children:
            os.kill(int(child), number)

    def stop(self, process):
        self.signal(process, signal.SIGTERM)
        self.assertEqual(process.wait_exit(), 0)

    def test_a_pool_of_containers(self):
        model = f"/models/{cluster.tiny_mixtral().name}"
        cluster.tiny_mixtral().chmod(0o644)
        router = self.container("router", "moepool-router", "--model", model, "--address", "127.0.0.1:0",
                                "--metrics-address", "127.0.0.1:0", "--kv-memory", "64MiB", "--min-workers", "2",
                                "--shm-dir", "/run/moepool")
        address = router.wait_ready()["address"]
        workers = [self.container(f"worker-{i}", "moepool-expert-worker", "--router", address, "--model", model,
                                  "--shm-dir", "/run/moepool") for i in range(2)]
        gateway = self.container("gateway", "moepool-gateway", "--router", address, "--http-address", "127.0.0.1:0",
                                 "--grpc-address", "127.0.0.1:0")
        ready = [worker.wait_ready() for worker in workers]
        self.assertEqual([r["name"].split(":")[0] for r in ready], ["worker-0", "worker-1"])
        self.assertEqual([r["pid"] for r in ready], [1, 1])
        self.assertEqual([r["transport"] for r in ready], ["shm", "shm"])
        client = cluster.Client(gateway.wait_ready()["http_address"], gateway.wait_ready()["grpc_address"])
        client.wait_ready()
        self.assertTrue(client.infer("from a container", max_tokens=8)["text"])
        self.assertTrue(list(self.cache.rglob("*")), "repacked weights are kept on the volume")
        # The router says so within a fifth of a second of a placement.
        cluster.wait_for(lambda: self.container("health", "moepool", "health", address, "--service",
                                                "moepool.trunk.v1.Trunk").wait_exit() == 0, "the router to say that it serves")
        for process in (gateway, router, *workers):
            self.stop(process)
        self.assertEqual(list(self.shared.iterdir()), [])

    def test_the_root_cannot_be_written(self):
        probe = self.container("probe", "moepool", "synth", "--out", "/model.gguf")
        self.assertEqual(probe.wait_exit(), 1)
        self.assertRegex(probe.log(), "Read-only file system|Permission denied")


@unittest.skipIf("MOEPOOL_IMAGE_ROOT" in os.environ, "nothing is built")
class PackageTest(unittest.TestCase):
    def test_installed_and_purged(self):
        with tempfile.TemporaryDirectory(prefix="moepool-debian-") as scratch:
            root = pathlib.Path(scratch) / "root"
            run("cp", "--archive", debian(), root)
            run("cpack", "--config", BUILD / "CPackConfig.cmake", "-G", "DEB", "-B", scratch)
            (package,) = pathlib.Path(scratch).glob("*.deb")
            shutil.copy(package, root / "moepool.deb")

            def inside(*command):
                return run("chroot", root, "env", "DEBIAN_FRONTEND=noninteractive", "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                           *command)
            inside("apt-get", "install", "-y", "--no-install-recommends", "/moepool.deb")
            self.assertIn("moepool-router", inside("moepool-router", "--version"))
            self.assertIn("/var/lib/moepool", inside("getent", "passwd", "moepool"))
            (root / "etc/moepool/router.yaml").write_text("model: /mine.gguf\n")
            inside("dpkg", "--install", "--force-confold", "/moepool.deb")
            self.assertEqual((root / "etc/moepool/router.yaml").read_text(), "model: /mine.gguf\n")
            (root / "var/cache/moepool/weights").mkdir(parents=True)
            inside("apt-get", "purge", "-y", "moepool")
            left = [str(p) for p in root.rglob("*moepool*") if p.name != "moepool.deb"]
            self.assertEqual(left, [])
            self.assertNotIn("moepool", (root / "etc/passwd").read_text() + (root / "etc/group").read_text())


if __name__ == "__main__":
    cluster.main()
