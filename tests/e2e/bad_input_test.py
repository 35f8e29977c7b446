"""Hostile and mistaken requests against the real cluster: the documented error, and the next request succeeds."""

import json
import socket
import unittest

import cluster
from cluster import E2eTest

CONTEXT = 256
MAX_BODY = 64 << 10


class BadInputTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(cluster.tiny_mixtral(), router_flags=("--context-tokens", CONTEXT),
                                   gateway_flags=("--max-body-bytes", MAX_BODY))
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.client = cls.pool.client
        cls.good = cls.client.infer("fine", max_tokens=4)["text"]

    def check_goes_on(self):
        self.assertEqual(self.client.infer("fine", max_tokens=4)["text"], self.good)
        for process in self.pool.processes:
            self.assertTrue(process.alive(), process.label)

    def check_refused(self, body, status=400, param=None, mentions=()):
        with self.subTest(body=str(body)[:120]):
            self.check_error(self.client.post("/infer", body), status, param, mentions)
            self.check_goes_on()

    def test_bodies_that_are_not_json(self):
        deep = '{"prompt": ' + "[" * 5000 + "]" * 5000 + "}"
        for body, word in ((b"", "JSON"), (b"{", "JSON"), (b"prompt=hello", "JSON"), (b'{"prompt": "a"} x', "JSON"),
                           (b"{'prompt': 'a'}", "JSON"), (b'{"prompt": "a",}', "JSON"),
                           (b'{"prompt": "a", "temperature": NaN}', "JSON"),
                           (b'{"prompt": "a", "temperature": Infinity}', "JSON"),
                           (b'{"prompt": "a", "temperature": 1e400}', "JSON"),
                           (b'{"prompt": "\xff\xfe"}', "UTF-8"), (b'{"prompt": "\xed\xa0\x80"}', "UTF-8"),
                           (b'{"prompt": "\\ud800"}', "JSON"), (b'\x00' * 100, "JSON"), (deep.encode(), "levels")):
            self.check_refused(body, mentions=[word])

    def test_bodies_of_another_shape(self):
        for body in ("[]", "null", "17", '"prompt"', "true"):
            self.check_refused(body)

    def test_the_input_is_missing_or_double(self):
        self.check_refused({"max_tokens": 3}, param="prompt")
        self.check_refused({"prompt": None}, param="prompt")
        self.check_refused({"prompt": "a", "messages": [{"role": "user", "content": "a"}]}, param="messages")
        self.check_refused({"messages": []}, param="messages")
        self.check_refused({"messages": [{"role": "user"}]}, param="messages[0].content")
        self.check_refused({"messages": [{"role": "user", "content": "a", "nickname": "b"}]}, param="messages[0].nickname")
        self.check_refused({"messages": "hello"}, param="messages")

    def test_an_unknown_field_is_named(self):
        self.check_refused({"prompt": "a", "max_token": 3}, param="max_token")
        self.check_refused({"prompt": "a", "x" * 2000: 3}, mentions=["x" * 64])

    def test_fields_of_a_wrong_type(self):
        for field, value in (("prompt", 5), ("prompt", ["a"]), ("max_tokens", "5"), ("max_tokens", 1.5),
                             ("max_tokens", True), ("temperature", "hot"), ("top_k", 2.5), ("top_p", []),
                             ("seed", -1), ("seed", 1.5), ("seed", "7"), ("stream", "yes"), ("raw", 1),
                             ("stop", 5), ("presence_penalty", {}), ("min_p", False)):
            self.check_refused({"prompt": "a", field: value}, param=field)
        self.check_refused({"prompt": "a", "stop": ["x", 5]}, param="stop[1]")

    def test_values_out_of_range(self):
        for field, value in (("max_tokens", 0), ("max_tokens", -1), ("max_tokens", 2**31), ("max_tokens", -2**63),
                             ("max_tokens", 2**63), ("temperature", -0.1), ("temperature", -1e300), ("top_p", 0),
                             ("top_p", 1.01), ("top_p", -1), ("top_k", -1), ("top_k", 2**40), ("min_p", 1.5),
                             ("min_p", -0.5), ("presence_penalty", 2.1), ("presence_penalty", -2.1),
                             ("frequency_penalty", 3), ("frequency_penalty", -3), ("repetition_penalty", 0),
                             ("repetition_penalty", -1), ("repetition_penalty", 1e300), ("seed", 2**64)):
            self.check_refused({"prompt": "a", field: value}, param=field)
        self.check_refused({"prompt": "a", "stop": [""]}, param="stop[0]")
        self.check_refused({"prompt": "a", "stop": ["x" * 100000]}, status=413)
        self.check_refused({"prompt": "a", "stop": ["x"] * 1000}, param="stop")
        self.check_refused({"prompt": "a", "temperature": 10**400})

    def test_extreme_values_that_are_allowed(self):
        for fields in ({"temperature": 1e300}, {"temperature": 1e-300}, {"top_p": 1e-12, "temperature": 1},
                       {"top_k": 2**31 - 1, "temperature": 1}, {"seed": 2**64 - 1, "temperature": 1},
                       {"max_tokens": 2**31 - 1, "temperature": 1, "seed": 1}, {"min_p": 1, "temperature": 1},
                       {"repetition_penalty": 1e-30}, {"temperature": None}):
            with self.subTest(fields=fields):
                answer = self.client.infer("a", **{"max_tokens": 5, **fields})
                self.assertIn(answer["finish_reason"], ("stop", "length"))
                self.check_goes_on()

    def test_the_prompt_and_the_context(self):
        self.check_refused({"prompt": "", "raw": True}, param="prompt", mentions=["no tokens"])
        self.check_refused({"prompt": "z" * CONTEXT, "raw": True}, param="prompt",
                           mentions=[str(CONTEXT), str(CONTEXT - 1)])
        self.check_refused({"prompt": "z" * 60000}, param="prompt")
        self.check_refused({"prompt": "z" * CONTEXT, "raw": True, "stream": True}, param="prompt")
        longest = self.client.infer("z" * (CONTEXT - 1), raw=True, max_tokens=50)
        self.assertEqual(longest["usage"]["prompt_tokens"], CONTEXT - 1)
        self.assertEqual(longest["usage"]["completion_tokens"], 1)

    def test_a_body_that_is_too_large(self):
        self.check_refused(json.dumps({"prompt": "z" * MAX_BODY}), status=413, mentions=[str(MAX_BODY)])

    def test_paths_methods_and_types(self):
        self.check_error(self.client.get("/nothing"), 404, mentions=["/nothing"])
        self.check_error(self.client.post("/v1/../infer", {}), 404)
        for method in ("GET", "PUT", "DELETE", "PATCH"):
            answer = self.client.request(method, "/infer")
            self.check_error(answer, 405, mentions=[method])
            self.assertEqual(answer.headers["Allow"], "POST, OPTIONS")
        self.check_error(self.client.post("/health", {}), 405)
        self.check_error(self.client.post("/infer", {"prompt": "a"}, content_type="text/plain"), 415)
        self.check_error(self.client.request("GET", "/health", headers={"X-Large": "z" * 100000}), 431)
        self.check_goes_on()

    def test_connections_that_speak_no_http(self):
        host, port = self.client.http_address.split(":")
        for sent in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"\x00" * 4096,
                     b"POST /infer HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
                     b"POST /infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
                     b"POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999999999999\r\n\r\n"):
            with self.subTest(sent=sent[:60]):
                with socket.create_connection((host, int(port)), timeout=cluster.PATIENCE_S) as connection:
                    connection.sendall(sent)
                    answer = connection.recv(65536)
                self.assertTrue(answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer)
                self.check_goes_on()
        # Half a request, and then nobody.
        with socket.create_connection((host, int(port)), timeout=cluster.PATIENCE_S) as connection:
            connection.sendall(b'POST /infer HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n'
                               b'{"pro')
        self.check_goes_on()

    def test_the_same_over_grpc(self):
        for flags, word in ((("--temperature", "-1"), "temperature"), (("--temperature", "nan"), "temperature"),
                            (("--top-p", "0"), "top_p"), (("--top-p", "2"), "top_p"), (("--top-k", "-1"), "top_k"),
                            (("--min-p", "7"), "min_p"), (("--max-tokens", "-1"), "max_tokens"),
                            (("--repetition-penalty", "-3"), "repetition_penalty"),
                            (("--presence-penalty", "inf"), "presence_penalty"),
                            (("--frequency-penalty", "-9"), "frequency_penalty")):
            with self.subTest(flags=flags):
                said = self.client.try_generate("fine", *flags)
                self.assertEqual((said.returncode, said.stdout), (1, b""), said)
                self.assertIn("INVALID_ARGUMENT", said.stderr.decode())
                self.assertIn(word, said.stderr.decode())
                self.check_goes_on()
        said = self.client.try_generate("z" * CONTEXT, "--raw")
        self.assertEqual(said.returncode, 1, said)
        self.assertIn(str(CONTEXT - 1), said.stderr.decode())
        self.check_goes_on()


if __name__ == "__main__":
    cluster.main()
