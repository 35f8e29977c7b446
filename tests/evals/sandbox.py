"""Runs Python that a model wrote, and says whether it got to its end.

What it does: namespaces of its own for mounts, processes and network (there is none); a root folder in memory that
holds /usr and the interpreter, read-only, /proc and an empty folder to work in; no capabilities and no new privileges;
as root the user `nobody`, otherwise a user namespace that maps nobody else; limits on CPU time, memory, size of a file,
processes and open files; an end to all of its processes after the time limit.

What it does not do: it filters no system calls, so a hole in the kernel is open to the program, and everything under
/usr can be read by it. Use a virtual machine for code that somebody means to do harm with.
"""

import dataclasses
import functools
import os
import pathlib
import resource
import secrets
import shutil
import subprocess
import sys
import tempfile

# $1: a folder for the root, $2: the interpreter's prefix, $3: the program, then the command to run in there.
_SETUP = r"""
set -e
root=$1 prefix=$2 program=$3
shift 3
mount -t tmpfs -o size=64m,mode=755 tmpfs "$root"
mkdir -p "$root/usr" "$root/python" "$root/proc" "$root/work" "$root/dev" "$root/oldroot"
for link in bin lib lib64 sbin; do
  if [ -L "/$link" ]; then cp -P "/$link" "$root/$link"
  elif [ -d "/$link" ]; then mkdir "$root/$link"; mount --rbind "/$link" "$root/$link"; fi
done
mount --rbind /usr "$root/usr"
mount --rbind "$prefix" "$root/python"
mount -o remount,bind,ro "$root/usr"
mount -o remount,bind,ro "$root/python"
mount -t proc proc "$root/proc"
cp "$program" "$root/program.py"
chmod 444 "$root/program.py"
chmod 777 "$root/work"
: > "$root/dev/null"
mount --bind /dev/null "$root/dev/null"
cd "$root"
pivot_root . oldroot
umount -l /oldroot
cd /work
exec "$@"
"""


@dataclasses.dataclass(frozen=True)
class Limits:
    wall_s: float = 10
    cpu_s: int = 10
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    processes: int = 32
    open_files: int = 64
    output_bytes: int = 1 << 16


@dataclasses.dataclass(frozen=True)
class Outcome:
    passed: bool
    reason: str  # "passed", "timed out", or what went wrong


def _limit(limits):
    for kind, value in ((resource.RLIMIT_CPU, limits.cpu_s), (resource.RLIMIT_AS, limits.memory_bytes),
                        (resource.RLIMIT_FSIZE, limits.file_bytes), (resource.RLIMIT_NOFILE, limits.open_files),
                        (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))


def _command(root, program, limits):
    namespaces = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
    if os.geteuid() == 0:
        drop += ["--reuid=65534", "--regid=65534", "--clear-groups"]
    else:
        namespaces.append("--map-root-user")
    interpreter = pathlib.Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [*namespaces, "sh", "-c", _SETUP, "sandbox", str(root), sys.base_prefix, str(program), *drop,
            "prlimit", f"--nproc={limits.processes}", "--",
            "env", "-i", "PYTHONHOME=/python", "HOME=/work", "LANG=C.UTF-8",
            f"/python/bin/{interpreter.name}", "-B", "-S", "/program.py"]


@functools.cache
def unavailable():
    """Why there is no sandbox here, or None."""
    missing = [name for name in ("unshare", "setpriv", "prlimit", "mount", "pivot_root", "env")
               if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found (util-linux)"
    outcome = run("pass")
    return None if outcome.passed else outcome.reason


def run(source, limits=Limits()):
    """Runs `source`. Passed where its last statement was reached: a program that ends early has not passed."""
    token = secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="moepool-sandbox-") as folder:
        program = pathlib.Path(folder) / "program.py"
        root = pathlib.Path(folder) / "root"
        root.mkdir()
        ending = f"import sys as _sys\n_sys.__stdout__.write('\\n{token}\\n')\n"
        program.write_text(f"{source}\n\n{ending}", encoding="utf-8", errors="surrogatepass")
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(_command(root, program, limits), stdin=subprocess.DEVNULL, stdout=output,
                                       stderr=errors, cwd=folder, env={"PATH": os.environ.get("PATH", os.defpath)},
                                       start_new_session=True, preexec_fn=functools.partial(_limit, limits))
            try:
                code = process.wait(limits.wall_s)
            except subprocess.TimeoutExpired:
                process.kill()  # and, with --kill-child, the first process of the namespace and all the others
                process.wait()
                return Outcome(False, "timed out")
            size = output.seek(0, os.SEEK_END)
            output.seek(max(0, size - limits.output_bytes))
            said = output.read().decode(errors="replace")
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - 4096))
            wrong = errors.read().decode(errors="replace").strip().splitlines()
    if code == 0 and said.endswith(f"\n{token}\n"):
        return Outcome(True, "passed")
    # The limit on CPU time kills; unshare then tries to end by the same signal, and some versions say that they cannot.
    if code < 0 or any(line.startswith("unshare: sigprocmask unblock") for line in wrong):
        return Outcome(False, f"killed with code {code}")
    return Outcome(False, wrong[-1] if wrong else f"ended early with code {code}")
