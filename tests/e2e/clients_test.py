"""Many clients at once, clients that hang up, and clients that are too many."""

import concurrent.futures
import http.client
import json
import unittest

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, slow_mixtral

CLIENTS = 100


class ClientsTest(E2eTest):
    def test_a_hundred_clients_get_the_answers_of_one(self):
        pool = self.start_cluster(cluster.tiny_mixtral(), router_flags=("--max-running", "24", "--step-tokens", "96"))
        requests = [(f"client {i} says {'x' * (i * 13 % 40)}",
                     {"max_tokens": 20 + i % 5, "temperature": 0.0 if i % 2 else 1.0, "seed": i}) for i in range(10)]
        alone = [pool.client.infer(prompt, **fields) for prompt, fields in requests]

        def ask(i):
            prompt, fields = requests[i % len(requests)]
            if i % 3:
                return pool.client.infer(prompt, **fields)["text"]
            stream = pool.client.stream(prompt, **fields).read()
            return stream.text if stream.done else stream.error
        with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
            texts = list(threads.map(ask, range(CLIENTS)))
        wrong = [i for i, text in enumerate(texts) if text != alone[i % len(requests)]["text"]]
        self.assertEqual(wrong, [], [texts[i] for i in wrong])
        pool.wait_idle()

    def test_a_client_that_hangs_up_frees_what_it_held(self):
        pool = self.start_cluster(slow_mixtral())
        whole = pool.client.infer(LONG_PROMPT, **LONG_ANSWER)
        self.assertEqual(whole["finish_reason"], "length")
        for transport in ("sse", "unary", "grpc"):
            with self.subTest(transport=transport):
                failed = pool.metric("moepool_sequences_failed_total")
                hang_up = {"sse": self.sse, "unary": self.unary, "grpc": self.grpc}[transport](pool)
                status = pool.wait_status(lambda s: s["running"] == 1, "the request to run")
                self.assertLess(status["kv_blocks_free"], status["kv_blocks"])
                hang_up()
                pool.wait_idle()
                # Not finished: given up.
                self.assertEqual(pool.metric("moepool_sequences_failed_total"), failed + 1)
        self.assertEqual(pool.client.infer(LONG_PROMPT, **LONG_ANSWER)["text"], whole["text"])

    def sse(self, pool):
        return pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=3).hang_up

    def unary(self, pool):
        connection = http.client.HTTPConnection(pool.client.http_address, timeout=cluster.PATIENCE_S)
        connection.request("POST", "/infer", json.dumps({"prompt": LONG_PROMPT, **LONG_ANSWER}),
                           {"Content-Type": "application/json"})
        return connection.close

    def grpc(self, pool):
        flags = (word for key, value in LONG_ANSWER.items() for word in (f"--{key.replace('_', '-')}", value))
        process = self.start("moepool", "generate", "--gateway", pool.client.grpc_address, *flags, LONG_PROMPT,
                             label="generate")
        return process.kill

    def test_requests_beyond_the_limit_are_told_to_come_back(self):
        pool = self.start_cluster(slow_mixtral(), gateway_flags=("--max-requests", "2"))
        streams = [pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=1) for _ in range(2)]
        answer = pool.client.post("/infer", {"prompt": "me too"})
        self.check_error(answer, 429)
        self.assertTrue(answer.headers["Retry-After"])
        self.assertIn(b"RESOURCE_EXHAUSTED", pool.client.try_generate("me too").stderr)
        for stream in streams:
            stream.hang_up()
        pool.wait_idle()
        pool.client.infer("me now", max_tokens=3)

    def test_a_request_that_takes_too_long_ends_with_504(self):
        pool = self.start_cluster(slow_mixtral(), gateway_flags=("--request-timeout", "0.1"))
        self.check_error(pool.client.post("/infer", {"prompt": LONG_PROMPT, **LONG_ANSWER}), 504)
        pool.wait_idle()


if __name__ == "__main__":
    cluster.main()
