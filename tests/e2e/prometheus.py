"""Debian's Prometheus and Alertmanager beside a cluster: deploy/prometheus as it is, but for the addresses, the pace and
the time that an alert waits before it fires."""

import http.client
import json
import re
import shutil
import subprocess
import urllib.parse

import yaml

from processes import PATIENCE_S, SCRATCH, bound_command, wait_for

INTERVAL = "2s"  # and the time that a scrape may take, so not too short for a busy machine


class Server:
    """One of the two, on a port of its choice. Ready when this is made."""

    def __init__(self, program, *flags):
        self.program = program
        self.log_path = SCRATCH / f"{program}.log"
        path = shutil.which(program)
        if path is None:
            raise AssertionError(f"{program} is missing; deploy/packages.sh test installs it")
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen(bound_command(None, [path, "--web.listen-address=127.0.0.1:0", *flags]),
                                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        self.address = wait_for(self._listening, f"{program} to say where it listens")
        wait_for(self._ready, f"{program} to be ready")

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def _listening(self):
        if self.popen.poll() is not None:
            raise AssertionError(f"{self.program} ended with {self.popen.returncode}:\n{self.log()}")
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)', self.log())
        return found and found.group(1)

    def _ready(self):
        try:
            return self.request("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def request(self, method, path, fields=None):
        """(status, body)"""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path, urllib.parse.urlencode(fields or {}, doseq=True),
                               {"Content-Type": "application/x-www-form-urlencoded"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self):
        self.popen.kill()
        self.popen.wait(PATIENCE_S)


class Alertmanager(Server):
    def __init__(self, deploy):
        super().__init__("prometheus-alertmanager", f"--config.file={deploy / 'prometheus' / 'alertmanager.yml'}",
                         f"--storage.path={SCRATCH / 'alertmanager'}", "--cluster.listen-address=")

    def alerts(self):
        """{name: alert}, as its API shows them."""
        status, body = self.request("GET", "/api/v2/alerts")
        if status != 200:
            raise AssertionError(f"Alertmanager: {status} {body.decode()}")
        return {alert["labels"]["alertname"]: alert for alert in json.loads(body)}


class Prometheus(Server):
    def __init__(self, deploy, targets, alertmanager, key=None):
        """targets: {job: [address]}, of jobs of deploy/prometheus/prometheus.yml. key: what gateways ask for."""
        folder = SCRATCH / "prometheus"
        (folder / "rules").mkdir(parents=True)
        config = yaml.safe_load((deploy / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        config["global"] = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager.address]}]}]}
        config["scrape_configs"] = []
        for name, addresses in targets.items():
            job = {"job_name": name, "static_configs": [{"targets": addresses, "labels": {"pool": "default"}}]}
            if "authorization" in jobs[name] and key is not None:
                job["authorization"] = {"credentials": key}
            config["scrape_configs"].append(job)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        for path in (deploy / "prometheus" / "rules").glob("*.yaml"):
            rules = re.sub(r"^(\s+for:).*$", r"\1 0s", path.read_text(encoding="utf-8"), flags=re.M)
            (folder / "rules" / path.name).write_text(rules, encoding="utf-8")
        super().__init__("prometheus", f"--config.file={folder / 'prometheus.yml'}",
                         f"--storage.tsdb.path={folder / 'data'}")

    def ask(self, path, **fields):
        """The data of an answer of the API; an error raises with what Prometheus says."""
        status, body = self.request("POST" if fields else "GET", f"/api/v1/{path}", fields)
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success" or answer.get("warnings"):
            raise AssertionError(f"{path} {fields}: {status} {body.decode()}")
        return answer["data"]

    def target_errors(self):
        """{instance: what went wrong with its last scrape, or nothing}"""
        return {target["labels"]["instance"]: target["lastError"] for target in self.ask("targets")["activeTargets"]}

    def now(self):
        return float(self.ask("query", query="time()")["result"][0])

    def query(self, expr):
        """[(labels, value)] at this moment."""
        return [(sample["metric"], float(sample["value"][1])) for sample in self.ask("query", query=expr)["result"]]

    def history(self, expr, begin, end):
        """[(labels, [value])] over that time, a value each INTERVAL."""
        result = self.ask("query_range", query=expr, start=begin, end=end, step=INTERVAL)["result"]
        return [(series["metric"], [float(value) for _, value in series["values"]]) for series in result]
