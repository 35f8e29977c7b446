"""A real model: SmolLM2-135M-Instruct answers a question, the same through one process and through five."""

import os
import pathlib
import signal
import unittest

import cluster
from cluster import E2eTest, tokens

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
MODEL = pathlib.Path(os.environ.get("MOEPOOL_TEST_MODEL") or
                     CACHE / "moepool" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
QUESTIONS = [("What is the capital of France? Answer in one sentence.", "Paris"),
             ("What is the capital of Japan?", "Tokyo")]


class SmolLm2Test(E2eTest):
    def test_it_answers(self):
        serve = self.start("moepool", "serve", "--model", MODEL, "--http-address", "127.0.0.1:0", "--grpc-address",
                           "127.0.0.1:0", "--kv-memory", "256MiB", label="serve")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        alone = [client.infer(question, max_tokens=24) for question, _ in QUESTIONS]
        serve.signal(signal.SIGTERM)
        self.assertEqual(serve.wait_exit(), 0)
        pool = self.start_cluster(MODEL, workers=3, worker_flags=("--transport", "auto"))
        self.assertEqual(pool.status()["workers"][0]["experts"], "0-5")
        for (question, word), answer in zip(QUESTIONS, alone):
            said = pool.client.infer(question, max_tokens=24)
            print(f"{question} -> {said['text']!r}")
            self.assertIn(word, said["text"])
            self.assertEqual((said["text"], tokens(said)), (answer["text"], tokens(answer)))


if __name__ == "__main__":
    cluster.main()
