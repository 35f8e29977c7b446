"""Machines with podman, for the tests that bring compose files up: each has namespaces of its own for network, mounts and
processes, images, volumes and networks of its own, and a wire to the others. All of it ends with the namespaces. Needs root
and what deploy/packages.sh nightly installs."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import settings
from commands import run

sys.path.insert(0, str(settings.ROOT / "tests" / "e2e"))
import processes  # noqa: E402

COMPOSE = pathlib.Path(sys.executable).parent / "podman-compose"
# The machine's own limits may be lower than what podman sets otherwise, and only root of the real machine may raise them.
CONFIG = """[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""


class Machine:
    """`number` is the machine's address on the wire: 10.213.9.`number`."""

    def __init__(self, number):
        # Short, since podman takes no more than 50 letters.
        self.scratch = tempfile.TemporaryDirectory(prefix="moepool-")
        self.folder = folder = pathlib.Path(self.scratch.name)
        self.address = f"10.213.9.{number}"
        (folder / "networks").mkdir()
        (folder / "containers.conf").write_text(CONFIG.format(folder=folder), encoding="utf-8")
        # Networks' state is under /run, whatever podman is told. /sys stays, as runc looks for control groups in it.
        for mounted in ("/run/containers", "/run/netns"):
            pathlib.Path(mounted).mkdir(exist_ok=True)
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child",
             "--mount-proc", "sh", "-c", "mount -t tmpfs none /run/containers && mount -t tmpfs none /run/netns && "
             "ip link set lo up && exec sleep infinity"])
        self.init = processes.wait_for(self.sleeping, "a machine's first process")

    def sleeping(self):
        """The number of the holder's child, once it has made everything ready."""
        if self.holder.poll() is not None:
            raise AssertionError("namespaces cannot be made")
        children = pathlib.Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text(encoding="utf-8").split()
        return next((c for c in children if pathlib.Path(f"/proc/{c}/comm").read_text(encoding="utf-8") == "sleep\n"), None)

    def wire(self, other):
        run("nsenter", "--target", self.init, "--net", "ip", "link", "add", "wire", "type", "veth", "peer", "name", "wire",
            "netns", other.init)
        for machine in (self, other):
            machine.run("ip", "address", "add", f"{machine.address}/24", "dev", "wire")
            machine.run("ip", "link", "set", "wire", "up")

    def command(self, *words):
        return ["setpriv", "--pdeathsig", "KILL", "--", "nsenter", "--target", self.init, "--mount", "--net", "--pid", "--",
                *words]

    def run(self, *words, **variables):
        return run(*self.command(*words), env={**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf"),
                                               **variables})

    def podman(self, *words):
        return self.run(*self.podman_command(), *words)

    def podman_command(self):
        return ("podman", "--root", str(self.folder / "storage"), "--runroot", str(self.folder / "run"), "--storage-driver",
                "vfs")

    def add_image(self, tag, archive, *instructions):
        """An image of one layer, a tar archive. (A COPY would make everything root's.)"""
        changes = [word for instruction in instructions for word in ("--change", instruction)]
        self.podman("import", "--quiet", *changes, archive, tag)

    def compose(self, files, *words, **variables):
        """podman-compose with the files of one project."""
        podman = self.folder / "podman"
        podman.write_text(f'#!/bin/sh\nexec {" ".join(self.podman_command())} "$@"\n', encoding="utf-8")
        podman.chmod(0o755)
        command = [COMPOSE, "--podman-path", podman, "--in-pod", "false"]
        for file in files:
            command += ["--file", file]
        return self.run(*command, *words, **variables)

    def containers(self):
        """{name: what podman knows of the container}"""
        ids = self.podman("ps", "--all", "--quiet").split()
        found = json.loads(self.podman("inspect", *ids)) if ids else []
        return {one["Name"].removeprefix("moepool_"): one for one in found}

    def healthy(self, name):
        """By the container's own healthcheck. Podman leaves it to systemd to ask; here the tests do."""
        asked = subprocess.run(self.command(*self.podman_command(), "healthcheck", "run", f"moepool_{name}"),
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        return asked.returncode == 0

    def wait_healthy(self, *names):
        for name in names:
            try:
                processes.wait_for(lambda name=name: self.healthy(name), f"{name} to be healthy")
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.logs()}") from None

    def logs(self):
        said = []
        for name in self.containers():
            asked = subprocess.run(self.command(*self.podman_command(), "logs", f"moepool_{name}"), text=True, check=False,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            said.append(f"{name}:\n{asked.stdout[-2000:]}")
        return "\n".join(said)

    def get(self, url, *flags):
        """(status, body) as curl on this machine sees them."""
        said = self.run("curl", "--silent", "--show-error", "--max-time", str(processes.PATIENCE_S), "--write-out",
                        "\n%{http_code}", *flags, url)
        body, _, status = said.rpartition("\n")
        return int(status), body

    def remove(self):
        self.holder.kill()
        self.holder.wait()
        self.scratch.cleanup()
