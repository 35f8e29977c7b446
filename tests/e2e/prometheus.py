"""Debian's Prometheus beside a cluster: deploy/prometheus as it is, but for the addresses, the pace and the time that an
alert waits before it fires."""

import http.client
import json
import re
import shutil
import subprocess
import urllib.parse

import yaml

from processes import PATIENCE_S, SCRATCH, bound_command, wait_for

INTERVAL = "1s"


class Prometheus:
    def __init__(self, deploy, targets, key=None):
        """targets: {job: [address]}, of jobs of deploy/prometheus/prometheus.yml. key: what gateways ask for."""
        self.folder = SCRATCH / "prometheus"
        (self.folder / "rules").mkdir(parents=True)
        config = yaml.safe_load((deploy / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL}
        del config["alerting"]
        jobs = {job["job_name"] for job in config["scrape_configs"]}
        if not set(targets) <= jobs:
            raise AssertionError(f"prometheus.yml has {sorted(jobs)}, asked for {sorted(targets)}")
        config["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": addresses, "labels": {"pool": "default"}}],
             **({"authorization": {"credentials": key}} if job == "moepool-gateway" and key else {})}
            for job, addresses in targets.items()]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        for path in (deploy / "prometheus" / "rules").glob("*.yaml"):
            rules = re.sub(r"^(\s+for:).*$", r"\1 0s", path.read_text(encoding="utf-8"), flags=re.M)
            (self.folder / "rules" / path.name).write_text(rules, encoding="utf-8")
        self.log_path = self.folder / "log"
        program = shutil.which("prometheus")
        if program is None:
            raise AssertionError("prometheus is missing; deploy/packages.sh test installs it")
        with open(self.log_path, "wb") as log:
            self.popen = subprocess.Popen(
                bound_command(None, [program, f"--config.file={self.folder / 'prometheus.yml'}",
                                     f"--storage.tsdb.path={self.folder / 'data'}", "--web.listen-address=127.0.0.1:0"]),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        self.address = wait_for(self._address, "Prometheus to say where it listens")
        wait_for(self._ready, "Prometheus to be ready")

    def log(self):
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def _address(self):
        if self.popen.poll() is not None:
            raise AssertionError(f"Prometheus ended with {self.popen.returncode}:\n{self.log()}")
        found = re.search(r'msg="Listening on" address=(127\.0\.0\.1:[1-9]\d*)', self.log())
        return found and found.group(1)

    def _ready(self):
        try:
            return self._request("GET", "/-/ready")[0] == 200
        except OSError:
            return False

    def _request(self, method, path, fields=None):
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE_S)
        try:
            connection.request(method, path, urllib.parse.urlencode(fields or {}, doseq=True),
                               {"Content-Type": "application/x-www-form-urlencoded"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def ask(self, path, **fields):
        """The data of an answer of the API; an error raises with what Prometheus says."""
        method = "POST" if fields else "GET"
        status, body = self._request(method, f"/api/v1/{path}", fields)
        answer = json.loads(body)
        if status != 200 or answer["status"] != "success" or answer.get("warnings"):
            raise AssertionError(f"{path} {fields}: {status} {body.decode()}")
        return answer["data"]

    def now(self):
        return float(self.ask("query", query="time()")["result"][0])

    def query(self, expr):
        """[(labels, value)] at this moment."""
        result = self.ask("query", query=expr)
        if result["resultType"] == "scalar":
            return [({}, float(result["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in result["result"]]

    def history(self, expr, begin, end):
        """[(labels, [value])] over that time, a value a second."""
        result = self.ask("query_range", query=expr, start=begin, end=end, step=INTERVAL)["result"]
        return [(series["metric"], [float(value) for _, value in series["values"]]) for series in result]

    def stop(self):
        self.popen.kill()
        self.popen.wait(PATIENCE_S)
