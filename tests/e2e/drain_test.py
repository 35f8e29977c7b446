"""SIGTERM in the middle of a generation: it finishes, newcomers are refused, the exit code is 0."""

import signal
import unittest

import cluster
from cluster import E2eTest, LONG_ANSWER, LONG_PROMPT, slow_mixtral


class DrainTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.model = slow_mixtral()
        cls.flags = ("--model", cls.model, "--http-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0",
                     "--kv-memory", "64MiB")
        cls.undisturbed = None

    def check_finishes(self, client, process, refused):
        stream = client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=5)
        self.addCleanup(stream.hang_up)
        process.signal(signal.SIGTERM)
        cluster.wait_for(lambda: "draining" in process.log(), "word of the drain in the log")
        if refused is not None:
            cluster.wait_for(refused, "new requests to be refused")
        self.assertTrue(process.alive())  # the generation is still under way
        stream.read()
        self.assertIsNone(stream.error)
        self.assertTrue(stream.done)
        self.assertEqual(process.wait_exit(), 0)
        self.assertIn("drained", process.log().splitlines()[-1])
        if DrainTest.undisturbed is None:
            DrainTest.undisturbed = self.undisturbed_text()
        self.assertEqual(stream.text, DrainTest.undisturbed)

    def undisturbed_text(self):
        pool = self.start_cluster(self.model, workers=1)
        answer = pool.client.infer(LONG_PROMPT, **LONG_ANSWER)
        self.assertEqual(answer["finish_reason"], "length")
        pool.stop()
        return answer["text"]

    def is_refused(self, client):
        """No connection, or a 503."""
        try:
            answer = client.post("/infer", {"prompt": "me too", "max_tokens": 1})
        except OSError:
            return True
        if answer.status == 200:
            return False
        self.check_error(answer, 503)
        return True

    def test_gateway(self):
        pool = self.start_cluster(self.model, workers=1)
        self.check_finishes(pool.client, pool.gateway, lambda: self.is_refused(pool.client))
        self.assertEqual(pool.client.try_generate("hello").returncode, 1)
        pool.wait_idle()

    def test_router(self):
        pool = self.start_cluster(self.model, workers=2)
        self.check_finishes(pool.client, pool.router, lambda: self.is_refused(pool.client))
        self.assertTrue(pool.gateway.alive())
        cluster.wait_for(lambda: not pool.client.ready(), "/ready to say no")

    def test_worker(self):
        pool = self.start_cluster(self.model, workers=2)
        stream = pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=5)
        self.addCleanup(stream.hang_up)
        pool.workers[1].signal(signal.SIGTERM)
        self.assertEqual(pool.workers[1].wait_exit(), 0)
        stream.read()
        self.assertIsNone(stream.error)
        self.assertTrue(stream.done)
        self.assertEqual(stream.text, self.undisturbed_text())
        self.assertEqual(pool.status()["workers"][0]["experts"], "0-15")
        pool.client.infer("it goes on", max_tokens=2)

    def test_embedded(self):
        serve = self.start("moepool", "serve", *self.flags, label="serve")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        stream = client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=5)
        self.addCleanup(stream.hang_up)
        serve.signal(signal.SIGTERM)
        cluster.wait_for(lambda: self.is_refused(client), "new requests to be refused")
        stream.read()
        self.assertIsNone(stream.error)
        self.assertTrue(stream.done)
        self.assertEqual(serve.wait_exit(), 0)

    def test_a_drain_has_an_end(self):
        pool = self.start_cluster(self.model, workers=1, gateway_flags=("--drain-timeout", "0.05"),
                                  router_flags=("--drain-timeout", "0.05"))
        for process in (pool.gateway, pool.router):
            stream = pool.client.stream(LONG_PROMPT, **LONG_ANSWER).read(pieces=5)
            self.addCleanup(stream.hang_up)
            process.signal(signal.SIGTERM)
            self.assertEqual(process.wait_exit(), 0)
            if process is pool.router:
                stream.read()
                self.assertFalse(stream.done)
                self.assertEqual(stream.error["code"], "unavailable")
            else:
                pool.wait_idle()
                pool.start_gateway()
                pool.client.wait_ready()


if __name__ == "__main__":
    cluster.main()
