"""Compose files as `docker compose config` would show them: variables put in, files merged, extends followed. What these
files use of it, no more."""

import copy
import re

import yaml

import settings

FOLDER = settings.ROOT / "deploy" / "compose"


def interpolate(node, env):
    if isinstance(node, dict):
        return {key: interpolate(value, env) for key, value in node.items()}
    if isinstance(node, list):
        return [interpolate(value, env) for value in node]
    if not isinstance(node, str):
        return node

    def value(match):
        name, default, message = match.groups()
        if env.get(name):
            return env[name]
        if default is not None:
            return default
        raise AssertionError(f"{name} has no value: {message}")
    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?([^}]*))?\}", value, node)


def merge(under, over):
    """Maps are merged, lists of names joined, anything else replaced."""
    if isinstance(under, dict) and isinstance(over, dict):
        merged = dict(under)
        for key, value in over.items():
            merged[key] = merge(under[key], value) if key in under else value
        return merged
    if isinstance(under, list) and isinstance(over, list):
        return under + [item for item in over if item not in under]
    return over


def load(path, env):
    """One file. Compose follows `extends` file by file, before it merges them."""
    text = interpolate(yaml.safe_load(path.read_text(encoding="utf-8")), env)
    for name, service in text["services"].items():
        if "extends" in service:
            other = load(path.parent / service["extends"]["file"], env)["services"][service["extends"]["service"]]
            own = {key: value for key, value in service.items() if key != "extends"}
            text["services"][name] = merge(copy.deepcopy(other), own)
    return text


def project(files, env, profiles=()):
    """What runs with `docker compose -f FILE…` and these variables and profiles."""
    merged = {"x-folder": (FOLDER / files[0]).parent}  # from which relative paths go
    for file in files:
        merged = merge(merged, load(FOLDER / file, env))
    merged["services"] = {
        name: service for name, service in merged["services"].items()
        if service.get("deploy", {}).get("replicas") != 0 and
        (not service.get("profiles") or set(service["profiles"]) & set(profiles))}
    return merged


def example_env():
    lines = (FOLDER / "env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
