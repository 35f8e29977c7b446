"""Schemathesis over the OpenAPI file that the gateway serves: no 5xx, no hang, answers as the file says.

MOEPOOL_SCHEMATHESIS_EXAMPLES and MOEPOOL_SCHEMATHESIS_SECONDS for more than the quick run.
"""

import json
import os
import pathlib
import subprocess
import sys
import unittest
import xml.etree.ElementTree

import cluster
from cluster import E2eTest, PATIENCE_S, SCRATCH

EXAMPLES = int(os.environ.get("MOEPOOL_SCHEMATHESIS_EXAMPLES", 15))
SECONDS = int(os.environ.get("MOEPOOL_SCHEMATHESIS_SECONDS", 240))
CHECKS = ("not_a_server_error", "status_code_conformance", "content_type_conformance", "response_headers_conformance",
          "response_schema_conformance", "unsupported_method")
# A request may ask for the longest answer there is: the context keeps it short, the timeout is a bound against hanging.
CONTEXT = 128


class SchemathesisTest(E2eTest):
    @staticmethod
    def schemathesis(*args):
        """Its exit code, and what it printed."""
        program = pathlib.Path(sys.executable).parent / "schemathesis"
        made = subprocess.run([str(program), "run", *args, "--checks", ",".join(CHECKS), "--max-examples", str(EXAMPLES),
                               "--seed", "1", "--request-timeout", str(PATIENCE_S), "--continue-on-failure", "--phases",
                               "examples,coverage,fuzzing", "--suppress-health-check", "all", "--warnings", "off"],
                              cwd=SCRATCH, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS, check=False)
        return made.returncode, made.stdout.decode(errors="replace")

    def test_the_schema_is_kept(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), router_flags=("--context-tokens", CONTEXT))
        # As a file: by its URL, schemathesis would leave out the operation that it came from.
        served = SCRATCH / "openapi.json"
        served.write_bytes(pool.client.get("/openapi.json").body)
        paths = json.loads(served.read_bytes())["paths"]
        print(f"operations: {sum(len(p) for p in paths.values())} on {sorted(paths)}")
        report = SCRATCH / "junit.xml"
        code, said = self.schemathesis(str(served), "--url", f"http://{pool.client.http_address}", "--report", "junit",
                                       "--report-junit-path", str(report))
        print(said[-1500:])
        self.assertEqual(code, 0, said[-12000:])
        # All of them were called, so that an empty file does not pass.
        cases = {case.get("name") for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase")}
        for path, operations in paths.items():
            for method in operations:
                if method in ("get", "post"):
                    self.assertIn(f"{method.upper()} {path}", cases)
        self.assertTrue(all(p.alive() for p in pool.processes))
        pool.wait_idle()
        self.assertTrue(pool.client.infer("the cat", max_tokens=3)["text"])

    def test_it_tells_a_broken_promise(self):
        """The same command against a file that promises what is not kept."""
        pool = self.start_cluster(cluster.tiny_mixtral())
        schema = {"openapi": "3.0.3", "info": {"title": "broken", "version": "1"}, "paths": {"/health": {"get": {
            "responses": {"200": {"description": "never so", "content": {"application/json": {"schema": {
                "type": "object", "required": ["no_such_field"]}}}}}}}}}
        broken = SCRATCH / "broken.json"
        broken.write_text(json.dumps(schema), encoding="utf-8")
        code, said = self.schemathesis(str(broken), "--url", f"http://{pool.client.http_address}")
        self.assertNotEqual(code, 0)
        self.assertIn("no_such_field", said)


if __name__ == "__main__":
    cluster.main()
