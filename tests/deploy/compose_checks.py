"""What must hold between the services of a compose project, beyond what the schema says. Each check yields problems."""

import settings

GRPC_HEALTH = settings.health_services()


def program(service):
    command = service.get("command") or [""]
    return command[0] if command[0] in settings.PROGRAMS else None


def programs(project):
    return {name: s for name, s in project["services"].items() if program(s)}


def seconds(text):
    number, unit = text[:-1], text[-1]
    return int(number) * {"s": 1, "m": 60}[unit]


def check_settings(project, flags):
    own = programs(project)
    for name, s in own.items():
        given = settings.variables(s["environment"])
        for problem in settings.unknown_settings(program(s), given, flags[program(s)]):
            yield f"{name}: {problem}"
        host, _, port = given.get("router", "").rpartition(":")
        if host in project["services"]:
            router = own[host]
            if int(port) != settings.port(settings.variables(router["environment"])["address"]):
                yield f"{name}: --router {given['router']} is not the router's address"
            if not set(s["networks"]) & set(router["networks"]):
                yield f"{name} is on no network with {host}"
        elif host and not host[0].isdigit():
            yield f"{name}: --router {given['router']} is no service"
        if program(s) == "moepool-gateway":
            limit = s.get("deploy", {}).get("resources", {}).get("limits", {}).get("memory", "0")
            for problem in settings.gateway_memory(given, flags[program(s)], limit):
                yield f"{name}: {problem}"
        if "memory-limit" in given and (settings.byte_size(given["memory-limit"]) >=
                                        settings.byte_size(s["deploy"]["resources"]["limits"]["memory"])):
            yield f"{name} may take {given['memory-limit']} for experts, and has no more in all"


def check_workers(project, _):
    own = programs(project)
    there = sum(int(s["deploy"].get("replicas", 1)) for s in own.values() if program(s) == "moepool-expert-worker")
    for name, s in own.items():
        wanted = settings.variables(s["environment"]).get("min-workers")
        several = "machines" in s.get("networks", [])
        if wanted and (int(wanted) < there if several else int(wanted) != there):
            yield f"{name} waits for {wanted} workers of {there}"


def check_shared_memory(project, _):
    shared = {}
    for name, s in programs(project).items():
        folder = settings.variables(s["environment"]).get("shm-dir")
        if folder:
            volumes = [v.split(":")[0] for v in s["volumes"] if v.split(":")[1] == folder]
            if len(volumes) != 1:
                yield f"{name}: no volume at {folder}"
            shared[name] = (s["user"], *volumes)
    if len(set(shared.values())) > 1:
        yield f"shared memory is not shared: {shared}"


def check_drain(project, flags):
    for name, s in programs(project).items():
        drain = float(settings.variables(s["environment"]).get("drain-timeout", flags[program(s)]["drain-timeout"]))
        if seconds(s.get("stop_grace_period", "10s")) <= drain + settings.AFTER_DRAIN_S:
            yield f"{name} is killed after {s.get('stop_grace_period', '10s')}, while its drain takes up to {drain:g} s and more"


def check_health(project, _):
    for name, s in programs(project).items():
        test = s.get("healthcheck", {}).get("test", [])
        if test[:3] != ["CMD", "moepool", "health"]:
            yield f"{name}: no healthcheck that the image can run"
            continue
        address, service = test[3], test[test.index("--service") + 1]
        ports = {settings.port(v) for k, v in settings.variables(s["environment"]).items()
                 if k in ("address", "grpc-address")}
        if settings.port(address) not in ports:
            yield f"{name}: its healthcheck asks {address}, it listens on {sorted(ports)}"
        if service not in GRPC_HEALTH:
            yield f"{name}: its healthcheck asks for {service}, which no proto has"


def check_references(project, _):
    for name, s in project["services"].items():
        for on, how in s.get("depends_on", {}).items():
            target = project["services"].get(on)
            if target is None:
                yield f"{name} depends on {on}, which is not there"
            elif how["condition"] == "service_healthy" and "healthcheck" not in target:
                yield f"{name} waits for the health of {on}, which has no healthcheck"
            elif how["condition"] == "service_completed_successfully" and "restart" in target:
                yield f"{name} waits for the end of {on}, which starts again"
        used = {"networks": s.get("networks", []), "secrets": s.get("secrets", []),
                "configs": [c["source"] for c in s.get("configs", [])],
                "volumes": [v.split(":")[0] for v in s.get("volumes", []) if not v.startswith(("/", "."))]}
        for volume in s.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not (project["x-folder"] / source).exists():
                yield f"{name}: there is no {source} to mount"
        for kind, names in used.items():
            for missing in set(names) - set(project.get(kind, {})):
                yield f"{name}: {kind} has no {missing}"


def check_hardening(project, _):
    for name, s in project["services"].items():
        if (program(s) or name == "model") and not s.get("read_only") or s.get("cap_drop") != ["ALL"] or \
                "no-new-privileges:true" not in s.get("security_opt", []):
            yield f"{name}: a writable root, capabilities or new privileges"
        tag = s["image"].rpartition("/")[2].partition(":")[2]
        if tag in ("", "latest"):
            yield f"{name}: image {s['image']} is not pinned"
        if program(s) and s.get("user") != "10001:10001":
            yield f"{name} runs as {s.get('user', 'root')}"
        if program(s) and "memory" not in s.get("deploy", {}).get("resources", {}).get("limits", {}):
            yield f"{name}: no limit of memory"


def check_inside(project, _):
    """Only the gateway is within reach of others, by key; the router of other machines, on their private network."""
    networks = project.get("networks", {})
    for name, s in programs(project).items():
        given = settings.variables(s["environment"])
        outside = [n for n in s.get("networks", []) if not (networks.get(n) or {}).get("internal")]
        if program(s) == "moepool-gateway":
            if "api-key-file" not in given or "insecure" in given:
                yield f"{name} lets in who has no key"
            continue
        if outside not in ([], ["machines"]):
            yield f"{name} is on {outside}, from which others reach it"
        for published in s.get("ports", []):
            if "machines" not in outside or published.startswith(("0.0.0.0", "[::]")) or published.count(":") < 2:
                yield f"{name} publishes {published}"


CHECKS = (check_settings, check_workers, check_shared_memory, check_drain, check_health, check_references,
          check_hardening, check_inside)


def problems(project, flags):
    return [problem for check in CHECKS for problem in check(project, flags)]
