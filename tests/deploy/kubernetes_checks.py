"""What must hold between the objects of rendered manifests, beyond what a schema says. Each check yields problems."""

import yaml

import kubernetes_network
import settings

SECRETS_MADE_BY_HAND = {"moepool-api-keys", "moepool-prometheus"}
GRPC_HEALTH = settings.health_services()


def of_kind(objects, *kinds):
    return [o for o in objects if o["kind"] in kinds]


def workloads(objects):
    return of_kind(objects, "Deployment", "StatefulSet")


def pod(workload):
    return workload["spec"]["template"]["spec"]


def labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def name(o):
    return f"{o['kind']} {o['metadata']['name']}"


def program(workload):
    return pod(workload)["containers"][0]["command"][0]


def container_ports(workload):
    return {p["name"]: p["containerPort"] for c in pod(workload)["containers"] for p in c.get("ports", [])}


def given_settings(objects, workload):
    """Of the file that --config names, in the ConfigMap that is mounted there."""
    container = pod(workload)["containers"][0]
    folder, _, file = container["command"][container["command"].index("--config") + 1].rpartition("/")
    mount = next(m for m in container["volumeMounts"] if m["mountPath"] == folder)
    volume = next(v for v in pod(workload)["volumes"] if v["name"] == mount["name"])
    maps = {m["metadata"]["name"]: m["data"] for m in of_kind(objects, "ConfigMap")}
    loaded = yaml.load(maps[volume["configMap"]["name"]][file], Loader=yaml.CSafeLoader)
    loaded.update(settings.variables({e["name"]: e.get("value") for e in container.get("env", [])}))
    return loaded


def check_selectors(objects, _):
    for w in workloads(objects):
        if not kubernetes_network.matches(w["spec"]["selector"], labels(w)):
            yield f"{name(w)} does not select its own pods"
    for o in of_kind(objects, "Service", "PodDisruptionBudget"):
        selector = o["spec"]["selector"]
        chosen = [w for w in workloads(objects)
                  if kubernetes_network.matches(selector if "matchLabels" in selector else {"matchLabels": selector},
                                                labels(w))]
        if len(chosen) != 1:
            yield f"{name(o)} selects {len(chosen)} workloads, expected 1"
            continue
        for p in o["spec"].get("ports", []):
            target = p.get("targetPort", p["port"])
            if target not in (*container_ports(chosen[0]), *container_ports(chosen[0]).values()):
                yield f"{name(o)}: {name(chosen[0])} has no port {target}"
            elif container_ports(chosen[0]).get(target, target) != p["port"]:
                yield f"{name(o)}: port {p['port']} is another than the pod's {target}"
    for o in of_kind(objects, "HorizontalPodAutoscaler"):
        target = o["spec"]["scaleTargetRef"]
        scaled = [w for w in workloads(objects) if (w["kind"], w["metadata"]["name"]) == (target["kind"], target["name"])]
        if len(scaled) != 1:
            yield f"{name(o)} scales {target['kind']} {target['name']}, which is not there"
        elif "replicas" in scaled[0]["spec"]:
            yield f"{name(scaled[0])} has replicas of its own beside {name(o)}"
        elif not all("cpu" in c["resources"].get("requests", {}) for c in pod(scaled[0])["containers"]):
            yield f"{name(o)} goes by CPU, of which {name(scaled[0])} requests none"


def check_monitors(objects, _):
    for monitor in of_kind(objects, "ServiceMonitor"):
        chosen = [s for s in of_kind(objects, "Service")
                  if kubernetes_network.matches(monitor["spec"]["selector"], s["metadata"]["labels"])]
        if len(chosen) != 1:
            yield f"{name(monitor)} selects {len(chosen)} services, expected 1"
            continue
        for endpoint in monitor["spec"]["endpoints"]:
            if endpoint["port"] not in [p["name"] for p in chosen[0]["spec"]["ports"]]:
                yield f"{name(monitor)}: {name(chosen[0])} has no port {endpoint['port']}"


def check_probes(objects, _):
    for w in workloads(objects):
        for c in pod(w)["containers"]:
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                probe = c.get(kind, {}).get("grpc")
                if probe is None:
                    yield f"{name(w)}: no {kind} over gRPC"
                    continue
                if probe["port"] not in container_ports(w).values():
                    yield f"{name(w)}: {kind} asks port {probe['port']}, which the container has not"
                if probe.get("service", "") not in GRPC_HEALTH:
                    yield f"{name(w)}: {kind} asks for {probe['service']}, which no proto has"
            if not c["readinessProbe"]["grpc"].get("service") or c["livenessProbe"]["grpc"].get("service"):
                yield f"{name(w)}: ready is a service's word, alive the process's"


def check_settings(objects, flags):
    by_program = {program(w): (w, given_settings(objects, w)) for w in workloads(objects)}
    services = {s["metadata"]["name"]: [p["port"] for p in s["spec"]["ports"]] for s in of_kind(objects, "Service")}
    for which, (w, given) in by_program.items():
        for problem in settings.unknown_settings(which, given, flags[which]):
            yield f"{name(w)}: {problem}"
        for flag, value in given.items():
            if flag.endswith("address") and settings.port(value) not in container_ports(w).values():
                yield f"{name(w)}: --{flag} {value} is no port of the container"
        if "router" in given:
            host, _, port = given["router"].rpartition(":")
            if int(port) not in services.get(host, []):
                yield f"{name(w)}: --router {given['router']} is no service of these"
    gateway, given = by_program["moepool-gateway"]
    limit = pod(gateway)["containers"][0]["resources"].get("limits", {}).get("memory", "0")
    for problem in settings.gateway_memory(given, flags["moepool-gateway"], limit):
        yield f"{name(gateway)}: {problem}"
    router, worker = by_program["moepool-router"][1], by_program["moepool-expert-worker"]
    if router["min-workers"] != worker[0]["spec"]["replicas"]:
        yield f"the router waits for {router['min-workers']} workers of {worker[0]['spec']['replicas']}"
    limit = pod(worker[0])["containers"][0]["resources"].get("limits", {}).get("memory")
    if limit is not None and settings.byte_size(worker[1]["memory-limit"]) >= settings.byte_size(limit):
        yield f"workers may take {worker[1]['memory-limit']} for experts of {limit} in all"


def check_drain(objects, flags):
    for w in workloads(objects):
        given = given_settings(objects, w)
        drain = float(given.get("drain-timeout", flags[program(w)]["drain-timeout"]))
        stop = pod(w)["containers"][0].get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        needed = stop + drain + settings.AFTER_DRAIN_S
        if pod(w)["terminationGracePeriodSeconds"] <= needed:
            yield (f"{name(w)} is killed after {pod(w)['terminationGracePeriodSeconds']} s, while its drain takes "
                   f"up to {needed:g} s")


def check_references(objects, _):
    known = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for w in workloads(objects):
        claims = [c["metadata"]["name"] for c in w["spec"].get("volumeClaimTemplates", [])]
        volumes = [v["name"] for v in pod(w).get("volumes", [])] + claims
        for v in pod(w).get("volumes", []):
            if "configMap" in v and ("ConfigMap", v["configMap"]["name"]) not in known:
                yield f"{name(w)}: no ConfigMap {v['configMap']['name']}"
            if "secret" in v and v["secret"]["secretName"] not in SECRETS_MADE_BY_HAND:
                yield f"{name(w)}: no Secret {v['secret']['secretName']}"
        for c in pod(w)["containers"] + pod(w).get("initContainers", []):
            for m in c.get("volumeMounts", []):
                if m["name"] not in volumes:
                    yield f"{name(w)}: no volume {m['name']}"
            for source in c.get("envFrom", []):
                if ("ConfigMap", source["configMapRef"]["name"]) not in known:
                    yield f"{name(w)}: no ConfigMap {source['configMapRef']['name']}"
        if ("ServiceAccount", pod(w)["serviceAccountName"]) not in known:
            yield f"{name(w)}: no ServiceAccount {pod(w)['serviceAccountName']}"


def check_hardening(objects, _):
    """What the restricted Pod Security Standard asks, a root that cannot be written, no token, pinned images."""
    for w in workloads(objects):
        p = pod(w)
        context = p["securityContext"]
        if not context.get("runAsNonRoot") or not context.get("runAsUser"):
            yield f"{name(w)} may run as root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name(w)} has no seccomp profile"
        if p.get("automountServiceAccountToken") is not False:
            yield f"{name(w)} has a token of the API server"
        if p.get("enableServiceLinks") is not False:
            yield f"{name(w)}: links of services are variables, which could be taken for settings"
        for c in p["containers"] + p.get("initContainers", []):
            own = c["securityContext"]
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name(w)}, {c['name']}: privileges are not dropped"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name(w)}, {c['name']}: its root can be written"
            tag = c["image"].rpartition("/")[2].partition(":")[2]
            if tag in ("", "latest"):
                yield f"{name(w)}, {c['name']}: image {c['image']} is not pinned"
            if "memory" not in c["resources"].get("limits", {}) or "cpu" not in c["resources"].get("requests", {}):
                yield f"{name(w)}, {c['name']}: no limit of memory, or no request of CPU"


CHECKS = (check_selectors, check_monitors, check_probes, check_settings, check_drain, check_references,
          check_hardening, kubernetes_network.check_traffic)


def problems(objects, flags):
    return [problem for check in CHECKS for problem in check(objects, flags)]
