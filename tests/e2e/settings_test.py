"""Flag over MOEPOOL_ variable over YAML file over default, in every process.

An address that is not loopback is refused by name, so the refusal tells which of the settings was taken.
"""

import unittest

import cluster
from cluster import E2eTest

SETTINGS = [("moepool-router", ("--model", "none.gguf"), "address"),
            ("moepool-router", ("--model", "none.gguf"), "metrics-address"),
            ("moepool-gateway", (), "http-address"),
            ("moepool-gateway", (), "grpc-address"),
            ("moepool-expert-worker", ("--model", "none.gguf", "--router", "127.0.0.1:1"), "address"),
            ("moepool-expert-worker", ("--model", "none.gguf", "--router", "127.0.0.1:1"), "metrics-address"),
            ("moepool", ("serve", "--model", "none.gguf"), "http-address")]
BY_FLAG, BY_VARIABLE, BY_FILE = "192.0.2.1:9001", "192.0.2.2:9002", "192.0.2.3:9003"


class SettingsTest(E2eTest):
    def setUp(self):
        self.yaml = cluster.SCRATCH / "settings.yaml"

    def refusal(self, binary, args, env=None):
        ended = cluster.run(binary, *args, env=env)
        return ended.stderr.decode()

    def test_precedence(self):
        for binary, needed, setting in SETTINGS:
            with self.subTest(binary=binary, setting=setting):
                self.yaml.write_text(f"{setting}: {BY_FILE}\n")
                variable = {f"MOEPOOL_{setting.upper().replace('-', '_')}": BY_VARIABLE}
                flag = (f"--{setting}", BY_FLAG)
                # The flag of the file comes before a subcommand.
                in_file = ("--config", self.yaml, *needed)
                self.assertIn(BY_FLAG, self.refusal(binary, (*in_file, *flag), variable))
                self.assertIn(BY_VARIABLE, self.refusal(binary, in_file, variable))
                self.assertIn(BY_FILE, self.refusal(binary, in_file))
                self.assertIn(BY_FILE, self.refusal(binary, needed, {"MOEPOOL_CONFIG": str(self.yaml)}))
                self.assertIn(BY_FLAG, self.refusal(binary, (*needed, *flag), variable))
                self.assertIn(BY_VARIABLE, self.refusal(binary, needed, variable))

    def test_the_file_is_read_strictly(self):
        for binary, needed, setting in SETTINGS:
            for text, word in ((f"{setting}s: 1\n", f"{setting}s"), ("- a\n- b\n", "map"), ("a: [", "settings.yaml"),
                               (f"{setting}: {{a: b}}\n", setting), (f"{setting}: [a, b]\n", setting)):
                with self.subTest(binary=binary, text=text):
                    self.yaml.write_text(text)
                    ended = cluster.run(binary, "--config", self.yaml, *needed)
                    said = ended.stderr.decode()
                    self.assertEqual((ended.returncode, ended.stdout), (2, b""), said)
                    self.assertEqual(len(said.strip().splitlines()), 1, said)
                    self.assertIn(word, said)

    def test_what_is_set_takes_effect(self):
        self.yaml.write_text("context_tokens: 64\nkv-memory: 32MiB\n")
        base = ("--config", self.yaml, "serve", "--model", cluster.tiny_mixtral(), "--http-address", "127.0.0.1:0",
                "--grpc-address", "127.0.0.1:0")
        for flags, env, expected in (((), {}, 64), ((), {"MOEPOOL_CONTEXT_TOKENS": "96"}, 96),
                                     (("--context-tokens", "128"), {"MOEPOOL_CONTEXT_TOKENS": "96"}, 128),
                                     (("--context-tokens", "0"), {}, 4096)):
            with self.subTest(flags=flags, env=env):
                serve = self.start("moepool", *base, *flags, env=env, label="serve")
                ready = serve.wait_ready()
                client = cluster.Client(ready["http_address"], ready["grpc_address"])
                client.wait_ready()
                self.assertEqual(client.get("/v1/models").json()["data"][0]["context_tokens"], expected)
                serve.kill()

    def test_names_of_the_model(self):
        serve = self.start("moepool", "serve", "--model", cluster.tiny_mixtral(), "--http-address", "127.0.0.1:0",
                           "--grpc-address", "127.0.0.1:0", "--served-model-name", "moe,gpt-4", label="serve")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        self.assertEqual([model["id"] for model in client.get("/v1/models").json()["data"]], ["moe", "gpt-4"])
        self.assertEqual(client.get("/v1/models/gpt-4").json()["id"], "gpt-4")
        question = {"messages": [{"role": "user", "content": "the cat"}], "max_tokens": 2}
        for name, status in (("moe", 200), ("gpt-4", 200), ("tiny-mixtral", 404)):
            answer = client.post("/v1/chat/completions", {"model": name, **question})
            self.assertEqual(answer.status, status, answer.body)
            if status == 200:
                self.assertEqual(answer.json()["model"], "moe")
        self.assertIn("'tiny-mixtral' is not served here, but 'moe', 'gpt-4'", answer.json()["error"]["message"])


if __name__ == "__main__":
    cluster.main()
