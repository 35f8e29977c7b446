"""The locks of a gateway: keys over HTTP and gRPC, addresses that others reach, origins, hosts, and full queues."""

import json
import signal
import unittest

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, SCRATCH, run, tool, wait_for

OPEN = ("/health", "/ready")
CLOSED = ("/metrics", "/v1/models", "/no/such/path")


def make_key(name):
    """A key and its line, as `moepool key` makes them."""
    made = tool("key", name)
    if made.returncode != 0:
        raise AssertionError(made.stderr.decode())
    return made.stderr.decode().strip(), made.stdout.decode().strip()


class LocksTest(E2eTest):
    def setUp(self):
        self.key, self.line = make_key("alice")
        self.file = SCRATCH / "api_keys"
        self.file.unlink(missing_ok=True)
        self.file.write_text(f"# who may call\n{self.line}\n")
        self.file.chmod(0o600)

    def keyed_cluster(self, *flags, model=None):
        """Its gateway is asked without a key until it is ready, which it answers to everyone."""
        return self.start_cluster(model or cluster.tiny_mixtral(),
                                  gateway_flags=("--api-key-file", self.file, *flags))

    def ask(self, pool, key=None, method="POST", path="/infer", body=None, **headers):
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if method == "POST":
            headers["Content-Type"] = "application/json"
            body = json.dumps(body or {"prompt": "the cat", "max_tokens": 2})
        return pool.client.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})

    def test_the_key_and_its_line(self):
        self.assertRegex(self.key, r"^mp-[-_A-Za-z0-9]{43}$")
        self.assertRegex(self.line, r"^alice:[0-9a-f]{64}$")
        self.assertNotEqual(make_key("alice")[0], self.key)
        self.assertNotEqual(tool("key", "not a name").returncode, 0)

    def test_keys_over_http(self):
        pool = self.keyed_cluster()
        for path in OPEN:
            self.assertEqual(pool.client.get(path).status, 200, path)
        for path in CLOSED:
            self.check_error(pool.client.get(path), 401)
        self.assertEqual(self.ask(pool, self.key).status, 200)
        self.assertEqual(self.ask(pool, self.key, "GET", "/metrics").status, 200)
        for wrong in (None, "", self.key[:-1], self.key + "x", self.key.upper(), self.line.split(":")[1]):
            answer = self.ask(pool, wrong)
            self.check_error(answer, 401)
            self.assertEqual(answer.json()["error"]["code"], "invalid_api_key")
            self.assertTrue(answer.headers["WWW-Authenticate"].startswith("Bearer"))
            self.assertNotIn(self.key[3:20], answer.body.decode())
        # Logged by name, and never the key.
        log = pool.gateway.log()
        self.assertIn('"key":"alice"', log)
        self.assertNotIn(self.key[3:], log)

    def test_open_metrics(self):
        pool = self.keyed_cluster("--open-metrics")
        self.assertEqual(pool.client.get("/metrics").status, 200)
        self.check_error(pool.client.get("/v1/models"), 401)

    def test_the_file_is_read_again(self):
        pool = self.keyed_cluster()
        other, line = make_key("bob")
        self.assertEqual(self.ask(pool, other).status, 401)
        next_file = self.file.with_suffix(".next")
        next_file.write_text(line + "\n")
        next_file.rename(self.file)
        wait_for(lambda: self.ask(pool, other).status == 200, "the new key to be known")
        self.assertEqual(self.ask(pool, self.key).status, 401)
        # A mistake takes nobody's key.
        next_file.write_text("bob\n")
        next_file.rename(self.file)
        wait_for(lambda: self.ask(pool, other).status == 200 and "stay as they were" in pool.gateway.log(),
                 "the mistake to be logged")
        self.assertEqual(self.ask(pool, other).status, 200)

    def test_addresses_that_others_reach(self):
        for binary, needed in (("moepool-gateway", ()), ("moepool", ("serve", "--model", cluster.tiny_mixtral()))):
            for flag in ("--http-address", "--grpc-address"):
                refused = run(binary, *needed, flag, "0.0.0.0:0")
                said = refused.stderr.decode()
                self.assertNotEqual(refused.returncode, 0)
                for word in (flag, "--api-key-file", "--insecure"):
                    self.assertIn(word, said)
        keyed = self.start("moepool-gateway", "--http-address", "0.0.0.0:0", "--grpc-address", "0.0.0.0:0",
                           "--api-key-file", self.file)
        port = keyed.wait_ready()["http_address"].rsplit(":", 1)[1]
        self.assertEqual(cluster.Client(f"127.0.0.1:{port}", None).get("/v1/models").status, 401)
        self.file.chmod(0o602)
        refused = run("moepool-gateway", "--api-key-file", self.file)
        self.assertEqual(refused.returncode, 2)
        self.assertIn(str(self.file), refused.stderr.decode())

    def test_serve_has_the_same_locks(self):
        serve = self.start("moepool", "serve", "--model", cluster.tiny_mixtral(), "--http-address", "127.0.0.1:0",
                           "--grpc-address", "127.0.0.1:0", "--api-key-file", self.file, label="serve")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        self.assertEqual(client.get("/v1/models").status, 401)
        self.assertEqual(client.request("GET", "/v1/models", None, {"Authorization": f"Bearer {self.key}"}).status, 200)
        serve.signal(signal.SIGTERM)
        self.assertEqual(serve.wait_exit(), 0)

    def test_origins(self):
        pool = self.keyed_cluster("--cors-origin", "https://chat.example.org")
        preflight = self.ask(pool, method="OPTIONS", path="/v1/chat/completions", Origin="https://chat.example.org",
                             Access_Control_Request_Method="POST",
                             Access_Control_Request_Headers="authorization,content-type,x-stainless-os")
        self.assertEqual(preflight.status, 204)
        self.assertEqual(preflight.headers["Access-Control-Allow-Origin"], "https://chat.example.org")
        self.assertEqual(preflight.headers["Access-Control-Allow-Headers"],
                         "authorization,content-type,x-stainless-os")
        self.assertEqual(preflight.headers["Vary"], "Origin")
        self.assertIsNone(preflight.headers["Access-Control-Allow-Credentials"])
        answer = self.ask(pool, self.key, Origin="https://chat.example.org")
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers["Access-Control-Allow-Origin"], "https://chat.example.org")
        self.assertIn("X-Request-Id", answer.headers["Access-Control-Expose-Headers"])
        other = self.ask(pool, self.key, Origin="https://other.example.org")
        self.assertEqual(other.status, 200)
        self.assertIsNone(other.headers["Access-Control-Allow-Origin"])

    def test_hosts_of_a_loopback_address(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), gateway_flags=("--allowed-hosts", "pool.example.org"))
        for host, status in (("evil.example.org", 421), ("pool.example.org:80", 200), ("localhost", 200)):
            self.assertEqual(self.ask(pool, method="GET", path="/health", Host=host).status, status, host)

    def test_a_full_queue_says_when_to_come_back(self):
        pool = self.start_cluster(cluster.slow_mixtral(), gateway_flags=("--max-requests", 1, "--max-queue-tokens", 2500))
        held = pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=1)
        refused = pool.client.post("/infer", {"prompt": "the cat"})
        self.check_error(refused, 429, mentions=("1 requests are in flight",))
        self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
        over_grpc = pool.client.try_generate("the cat")
        self.assertNotEqual(over_grpc.returncode, 0)
        self.assertIn("RESOURCE_EXHAUSTED", over_grpc.stderr.decode())
        held.hang_up()
        wait_for(lambda: pool.client.post("/infer", {"prompt": "the cat", "max_tokens": 2}).status == 200,
                 "the place to be free again")
        self.check_error(pool.client.post("/infer", {"prompt": "the cat", "max_tokens": 3000}), 400,
                         mentions=("2500",))

    def test_tokens_in_flight(self):
        pool = self.start_cluster(cluster.slow_mixtral(), gateway_flags=("--max-queue-tokens", 2100))
        held = pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=1)
        refused = pool.client.post("/infer", {"prompt": "the cat", "max_tokens": 500})
        self.check_error(refused, 429, mentions=("tokens", "2100"))
        self.assertGreaterEqual(int(refused.headers["Retry-After"]), 1)
        self.assertEqual(pool.client.post("/infer", {"prompt": "the cat", "max_tokens": 2}).status, 200)
        held.hang_up()


if __name__ == "__main__":
    cluster.main()
