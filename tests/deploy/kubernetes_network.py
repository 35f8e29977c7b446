"""Network policies, played through: who reaches which port of whom, compared with what really travels."""

ROUTER, WORKER, GATEWAY = "moepool-router", "moepool-worker", "moepool-gateway"
MONITORING, ELSEWHERE, DNS, WORLD = "namespace monitoring", "namespace elsewhere", "DNS", "the world"
NAMESPACES = {MONITORING: "monitoring", ELSEWHERE: "elsewhere", DNS: "kube-system"}

# (from, to, port). With NCCL router and workers reach each other on every port besides.
TRAFFIC = {
    (GATEWAY, ROUTER, 50052), (WORKER, ROUTER, 50052),
    (MONITORING, ROUTER, 9101), (MONITORING, WORKER, 9102),
    *((source, GATEWAY, port) for source in (GATEWAY, ROUTER, WORKER, MONITORING, ELSEWHERE, WORLD)
      for port in (8000, 50051) if source not in (GATEWAY, ROUTER, WORKER)),
    *((source, DNS, 53) for source in (GATEWAY, ROUTER, WORKER)),
    *((source, WORLD, 443) for source in (ROUTER, WORKER)),
}
ANY_PORT = 33333  # stands for those that NCCL chooses


def matches(selector, labels):
    """A label selector; an empty one matches everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or []:
        if term["operator"] != "In":
            raise AssertionError(f"this test knows the operator In alone, not {term['operator']}")
        if labels.get(term["key"]) not in term["values"]:
            return False
    return True


class Pods:
    """The pods of the manifests, and those that stand for others."""

    def __init__(self, objects):
        self.labels, self.ports = {}, {}
        for o in objects:
            if o["kind"] in ("Deployment", "StatefulSet"):
                name = o["metadata"]["name"]
                template = o["spec"]["template"]
                self.labels[name] = template["metadata"]["labels"]
                self.ports[name] = {p["name"]: p["containerPort"] for c in template["spec"]["containers"]
                                    for p in c.get("ports", [])}
        self.policies = [o for o in objects if o["kind"] == "NetworkPolicy"]

    def is_peer(self, peer, who):
        """Whether a `from` or `to` entry means `who`."""
        if "ipBlock" in peer:
            raise AssertionError("this test knows no ipBlock")
        if who == WORLD:
            return False
        if "namespaceSelector" in peer:
            namespace = NAMESPACES.get(who, "moepool")
            if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": namespace}):
                return False
        elif who in NAMESPACES:
            return False
        labels = {"k8s-app": "kube-dns"} if who == DNS else self.labels.get(who, {})
        return matches(peer.get("podSelector", {}), labels)

    def allows(self, direction, who, other, port):
        """Whether the policies of the pod `who` let it send to (Egress) or be reached by (Ingress) `other`."""
        if who not in self.labels:
            return True  # not ours to say
        rules = [p["spec"] for p in self.policies
                 if direction in p["spec"]["policyTypes"] and matches(p["spec"]["podSelector"], self.labels[who])]
        if not rules:
            return True
        key, peers = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        # A named port is the destination's own.
        target = who if direction == "Ingress" else other
        names = {name for name, number in self.ports.get(target, {}).items() if number == port}
        return any((peers not in rule or any(self.is_peer(p, other) for p in rule[peers])) and
                   ("ports" not in rule or any(p["port"] in (port, *names) for p in rule["ports"]))
                   for spec in rules for rule in spec.get(key) or [])

    def reaches(self, source, target, port):
        return self.allows("Egress", source, target, port) and self.allows("Ingress", target, source, port)


def check_traffic(objects, _):
    pods = Pods(objects)
    # For pods that somebody adds, which no other policy selects.
    if not any(p["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for p in pods.policies):
        yield "no NetworkPolicy denies what none allows"
    for policy in pods.policies:
        if not any(matches(policy["spec"]["podSelector"], labels) for labels in pods.labels.values()):
            yield f"NetworkPolicy {policy['metadata']['name']} selects no pod"
    expected = set(TRAFFIC)
    names = [p["metadata"]["name"] for p in pods.policies]
    if any(name.startswith("nccl") for name in names):
        ports = {ANY_PORT, 443, 53, 8000, *(n for named in pods.ports.values() for n in named.values())}
        expected |= {(*pair, port) for pair in ((ROUTER, WORKER), (WORKER, ROUTER)) for port in ports}
    if "fetch-model" not in names:
        expected -= {(source, WORLD, 443) for source in (ROUTER, WORKER)}
    ours = list(pods.labels)
    every_port = {ANY_PORT, 443, 53, *(n for named in pods.ports.values() for n in named.values())}
    for source in (*ours, MONITORING, ELSEWHERE, WORLD):
        for target in (*ours, MONITORING, ELSEWHERE, DNS, WORLD):
            if source not in ours and target not in ours or source == target:
                continue
            for port in every_port:
                # Egress to 443 means 443 of whomever its owner lets in.
                if port == 443 and source in (ROUTER, WORKER) and target not in ours and "fetch-model" in names:
                    continue
                if pods.reaches(source, target, port) != ((source, target, port) in expected):
                    verb = "is kept from" if (source, target, port) in expected else "reaches"
                    yield f"{source} {verb} port {port} of {target}"
