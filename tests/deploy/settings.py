"""What the programs take: their flags and defaults, as --help tells them."""

import os
import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("MOEPOOL_BIN", ROOT / "build/release/bin")).absolute()
PROGRAMS = ("moepool-gateway", "moepool-router", "moepool-expert-worker")

# Beyond --drain-timeout a router takes this long for the streams of its workers (router/main.cc).
AFTER_DRAIN_S = 5


def flags(program):
    """{name: default, or "" where --help shows none}"""
    made = subprocess.run([BIN / program, "--help"], stdout=subprocess.PIPE, check=True, text=True)
    found = {}
    for line in made.stdout.splitlines():
        option = re.match(r"\s+(?:-\w,)?--([a-z][a-z0-9-]*)(.*)", line)
        if option:
            default = re.search(r"=(\S+)(?:\s{2,}|$)", option.group(2))
            found[option.group(1)] = default.group(1) if default else ""
    if "config" not in found:
        raise AssertionError(f"{program} --help lists no flags:\n{made.stdout}")
    return found


def all_flags():
    return {program: flags(program) for program in PROGRAMS}


def health_services():
    """Full names of the services in the protos, which health checks ask for."""
    names = {""}
    for proto in (ROOT / "proto").glob("*.proto"):
        text = proto.read_text(encoding="utf-8")
        package = re.search(r"^package ([\w.]+);", text, re.M).group(1)
        names.update(f"{package}.{service}" for service in re.findall(r"^service (\w+)", text, re.M))
    return names


def variables(environment):
    """Settings in an environment, under the names of flags."""
    return {name.removeprefix("MOEPOOL_").lower().replace("_", "-"): str(value)
            for name, value in environment.items() if name.startswith("MOEPOOL_")}


def port(address):
    return int(address.rsplit(":", 1)[1])


def byte_size(text):
    """6GiB, 512Mi, 4g: as flags, Kubernetes and compose write them."""
    number, unit = re.fullmatch(r"(\d+)\s*([a-zA-Z]*)", str(text)).groups()
    return int(number) * 1024 ** ("", "k", "m", "g", "t").index(unit.lower().removesuffix("b").removesuffix("i"))


def gateway_memory(given, known, limit):
    """A problem where what a gateway may be sent does not fit its memory, half of which is left to all else."""
    connections, body = (int(given.get(name, known[name])) for name in ("max-connections", "max-body-bytes"))
    if connections * body > byte_size(limit) / 2:
        yield f"{connections} connections with bodies of {body} bytes are more than half of {limit}"


def project_version():
    return re.search(r"^project\(moepool VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"), re.M).group(1)


def unknown_settings(program, given, known):
    """Problems with settings that the program has no flags for, or whose ports are not the usual ones."""
    for name, value in given.items():
        if name not in known:
            yield f"{program} has no flag --{name}"
        elif name.endswith("address"):
            default = port(known[name])
            if default and port(value) != default:
                yield f"{program} --{name} {value}: its port is usually {default}"
