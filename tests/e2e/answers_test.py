"""What users get: the same text whatever the pool and the transport, over HTTP and gRPC, whole and streamed."""

import json
import math
import signal
import unittest

import cluster
from cluster import E2eTest, tokens

PROMPTS = ["the cat", "解方程:2x + 5 = 15", "👩‍👩‍👧‍👦 and 🏳️‍🌈 e\u0301 é", "  runs   of\tspaces\n\n", "x" * 300]


class AnswersTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(cluster.tiny_mixtral(), workers=2)
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.client = cls.pool.client

    def test_workers_on_one_host_choose_shared_memory(self):
        status = self.pool.status()
        self.assertTrue(status["ready"], status)
        self.assertEqual([w["transport"] for w in status["workers"]], ["shm", "shm"], status)
        self.assertEqual([w["state"] for w in status["workers"]], ["ready", "ready"], status)
        self.assertEqual([w["experts"] for w in status["workers"]], ["0-7", "8-15"], status)
        self.assertEqual(sum(w["experts_held"] for w in status["workers"]), 4 * 16, status)

    def test_an_answer_has_every_field(self):
        answer = self.client.infer("the cat", max_tokens=12)
        self.assertEqual(set(answer),
                         {"id", "model", "text", "finish_reason", "usage", "timings", "seed"}, answer)
        self.assertEqual(answer["model"], "tiny-mixtral")
        self.assertTrue(answer["id"])
        self.assertIn(answer["finish_reason"], ("stop", "length"))
        usage = answer["usage"]
        self.assertEqual(set(usage), {"prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"})
        self.assertGreater(usage["prompt_tokens"], 0)
        self.assertLessEqual(usage["cached_tokens"], usage["prompt_tokens"])
        self.assertTrue(1 <= usage["completion_tokens"] <= 12, usage)
        timings = answer["timings"]
        self.assertEqual(set(timings), {"queue_ms", "ttft_ms", "decode_ms"})
        self.assertGreater(timings["ttft_ms"], 0)
        self.assertGreaterEqual(timings["ttft_ms"], timings["queue_ms"])
        self.assertGreaterEqual(timings["queue_ms"], 0)
        self.assertGreaterEqual(timings["decode_ms"], 0)
        self.assertIsInstance(answer["seed"], int)

    def test_max_tokens(self):
        longer = ""
        for max_tokens in (17, 2, 1):
            answer = self.client.infer("the cat", max_tokens=max_tokens)
            if answer["finish_reason"] == "length":
                self.assertEqual(answer["usage"]["completion_tokens"], max_tokens, answer)
            # A character cut off at the end becomes U+FFFD.
            self.assertTrue(not longer or longer.startswith(answer["text"].rstrip("\ufffd")), (longer, answer))
            longer = answer["text"]
        self.assertEqual(answer["finish_reason"], "length")

    def test_http_stream_and_grpc_say_the_same(self):
        texts = set()
        for prompt in PROMPTS:
            for sampling in ({}, {"temperature": 1.0, "top_k": 50, "seed": 11}):
                with self.subTest(prompt=prompt, sampling=sampling):
                    whole = self.client.infer(prompt, max_tokens=40, **sampling)
                    stream = self.client.stream(prompt, max_tokens=40, **sampling).read()
                    self.assertTrue(stream.done)
                    self.assertEqual(stream.text, whole["text"])
                    self.assertEqual(tokens(stream.last), tokens(whole))
                    self.assertEqual(stream.last["finish_reason"], whole["finish_reason"])
                    flags = [w for k, v in sampling.items() for w in (f"--{k.replace('_', '-')}", str(v))]
                    said = self.client.generate(prompt, "--max-tokens", "40", *flags)
                    self.assertEqual(said.removesuffix("\n"), whole["text"].removesuffix("\n"))
                    texts.add(whole["text"])
        self.assertGreater(len(texts), len(PROMPTS), texts)  # the prompt and the seed do matter

    def test_a_seed_fixes_what_is_sampled(self):
        first = self.client.infer("the cat", temperature=1.0, seed=7, max_tokens=40)
        self.assertEqual(first["seed"], 7)
        again = self.client.infer("the cat", temperature=1.0, seed=7, max_tokens=40)
        self.assertEqual(again["text"], first["text"])
        other = self.client.infer("the cat", temperature=1.0, seed=8, max_tokens=40)
        self.assertNotEqual(other["text"], first["text"])
        drawn = self.client.infer("the cat", temperature=1.0, max_tokens=40)
        self.assertNotIn(drawn["seed"], (7, 8))
        replayed = self.client.infer("the cat", temperature=1.0, max_tokens=40, seed=drawn["seed"])
        self.assertEqual(replayed["text"], drawn["text"])

    def test_stop_strings_end_an_answer(self):
        full = self.client.infer("the cat", temperature=1.0, seed=3, max_tokens=60)
        text = full["text"]
        self.assertGreater(len(text), 30)
        for begin, end in ((10, 11), (9, 14), (20, 27)):
            stop = text[begin:end]
            with self.subTest(stop=stop):
                expected = text[:text.find(stop)]
                fields = {"temperature": 1.0, "seed": 3, "max_tokens": 60, "stop": ["never said", stop]}
                answer = self.client.infer("the cat", **fields)
                self.assertEqual((answer["text"], answer["finish_reason"]), (expected, "stop"))
                self.assertLessEqual(answer["usage"]["completion_tokens"], full["usage"]["completion_tokens"])
                stream = self.client.stream("the cat", **fields).read()
                self.assertEqual((stream.text, stream.last["finish_reason"]), (expected, "stop"))
                said = self.client.generate("the cat", "--temperature", "1", "--seed", "3", "--max-tokens", "60",
                                            "--stop", stop)
                self.assertEqual(said.rstrip("\n"), expected.rstrip("\n"))
        self.pool.wait_idle()  # what was stopped runs no longer

    def test_raw_leaves_out_the_chat_template(self):
        ids = self.client.post("/tokenize", {"text": "the cat"}).json()["ids"]
        raw = self.client.infer("the cat", raw=True, max_tokens=20)
        self.assertEqual(raw["usage"]["prompt_tokens"], len(ids))
        chat = self.client.infer("the cat", max_tokens=20)
        self.assertGreater(chat["usage"]["prompt_tokens"], len(ids))
        messages = self.client.post("/infer", {"messages": [{"role": "user", "content": "the cat"}],
                                               "max_tokens": 20}).json()
        self.assertEqual(messages["text"], chat["text"])
        self.assertEqual(self.client.generate("the cat", "--raw", "--max-tokens", "20").rstrip("\n"),
                         raw["text"].rstrip("\n"))

    def test_tokenize_of_http_and_tool_agree(self):
        for prompt in PROMPTS:
            ids = self.client.post("/tokenize", {"text": prompt}).json()["ids"]
            said = cluster.tool("tokenize", "--model", self.pool.model, "--", prompt)
            self.assertEqual(said.stdout.decode().strip(), str(ids).replace(" ", ""), said.stderr)


class SamplingTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(cluster.tiny_mixtral(), workers=2)
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.client = cls.pool.client

    def logprobs(self, prompt, **fields):
        answer = self.client.infer(prompt, logprobs=True, **fields)
        self.assertEqual(len(answer["logprobs"]), answer["usage"]["completion_tokens"], answer)
        return answer["logprobs"]

    def test_three_answers_are_those_of_their_seeds(self):
        fields = {"temperature": 1.0, "max_tokens": 30}
        single = [self.client.infer("the cat", seed=40 + i, **fields) for i in range(3)]
        whole = self.client.infer("the cat", seed=40, n=3, **fields)
        expected = [{"index": i, "text": one["text"], "finish_reason": one["finish_reason"], "seed": 40 + i}
                    for i, one in enumerate(single)]
        self.assertEqual(whole["choices"], expected)
        self.assertEqual(whole["usage"]["prompt_tokens"], single[0]["usage"]["prompt_tokens"])
        generated = sum(one["usage"]["completion_tokens"] for one in single)
        self.assertEqual(whole["usage"]["completion_tokens"], generated)
        self.assertEqual(len({one["text"] for one in single}), 3, single)
        stream = self.client.stream("the cat", seed=40, n=3, **fields).read()
        self.assertTrue(stream.done)
        for choice in expected:
            index = choice["index"]
            self.assertEqual("".join(stream.choices.get(index, [])), choice["text"])
            self.assertEqual(stream.ends[index]["finish_reason"], choice["finish_reason"])
            self.assertEqual(stream.ends[index]["seed"], choice["seed"])
        self.assertEqual(stream.last["usage"]["completion_tokens"], generated)
        said = self.client.generate("the cat", "--temperature", "1", "--seed", "40", "--n", "3", "--max-tokens", "30")
        lines = "".join(f"[{c['index']}]\n{c['text']}" + ("" if c["text"].endswith("\n") else "\n") for c in expected)
        self.assertEqual(said, lines)

    def test_logprobs_are_those_of_a_distribution(self):
        for token in self.logprobs("the cat", max_tokens=20, top_logprobs=20, ignore_eos=True):
            top = token["top"]
            self.assertEqual((top[0]["id"], top[0]["logprob"]), (token["id"], token["logprob"]), token)
            values = [t["logprob"] for t in top]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertLessEqual(sum(math.exp(v) for v in values), 1.0001)
            self.assertEqual(len({t["id"] for t in top}), 20)

    def test_logprobs_go_with_tokens(self):
        fields = {"temperature": 1.0, "seed": 5, "max_tokens": 40, "top_logprobs": 2}
        answer = self.client.infer("the cat", logprobs=True, **fields)
        said = b"".join(bytes(t["bytes"]) for t in answer["logprobs"])
        self.assertEqual(said.decode(errors="replace"), answer["text"])
        self.assertEqual(self.client.stream("the cat", logprobs=True, **fields).read().logprobs, answer["logprobs"])
        # What shapes the choice does not show in the numbers of the first token.
        other = self.logprobs("the cat", presence_penalty=2, top_k=3, **fields)
        self.assertEqual(other[0]["top"], answer["logprobs"][0]["top"])
        made = self.client.try_generate("the cat", "--temperature", "1", "--seed", "5", "--max-tokens", "40",
                                        "--top-logprobs", "2")
        lines = [json.loads(line) for line in made.stderr.decode().splitlines()]
        self.assertEqual([(line["id"], line["logprob"]) for line in lines],
                         [(token["id"], token["logprob"]) for token in answer["logprobs"]])

    def test_logit_bias_forces_and_bans(self):
        forced = self.logprobs("the cat", logit_bias={"67": 100}, max_tokens=5)
        self.assertEqual([token["id"] for token in forced], [67] * 5)
        first = self.logprobs("the cat", max_tokens=1, ignore_eos=True)[0]["id"]
        banned = self.logprobs("the cat", logit_bias={str(first): -100}, max_tokens=20, ignore_eos=True)
        self.assertNotIn(first, [token["id"] for token in banned])

    def test_the_end_waits_for_min_tokens_or_is_ignored(self):
        end = self.client.post("/tokenize", {"text": "<|im_end|>"}).json()["ids"][-1]
        bias = {str(end): 100}
        self.assertEqual(self.client.infer("the cat", logit_bias=bias)["usage"]["completion_tokens"], 0)
        late = self.client.infer("the cat", logit_bias=bias, min_tokens=7, max_tokens=20)
        self.assertEqual((late["usage"]["completion_tokens"], late["finish_reason"]), (7, "stop"))
        ignored = self.client.infer("the cat", logit_bias=bias, ignore_eos=True, max_tokens=20)
        self.assertEqual((ignored["usage"]["completion_tokens"], ignored["finish_reason"]), (20, "length"))
        self.assertEqual(ignored["text"], "")

    def test_dry_ends_a_repetition(self):
        run = {"logit_bias": {"67": 50}, "max_tokens": 30, "logprobs": True}
        self.assertEqual({token["id"] for token in self.client.infer("the cat", **run)["logprobs"]}, {67})
        answer = self.client.infer("the cat", dry_multiplier=1, **run)
        self.assertGreater(len({token["id"] for token in answer["logprobs"]}), 1)

    def test_wrong_values_are_named(self):
        for field, value in (("n", 17), ("min_tokens", -1), ("top_logprobs", 3), ("repeat_last_n", -2),
                             ("dry_base", 0), ("logit_bias", 5)):
            self.check_error(self.client.post("/infer", {"prompt": "a", field: value}), 400, field)
        self.check_error(self.client.post("/infer", {"prompt": "a", "logit_bias": {"1000000": 1}}), 400,
                         "logit_bias[1000000]")


class PlacementTest(E2eTest):
    """One answer, whatever computes it."""

    def answers(self, client):
        said = []
        for prompt in PROMPTS:
            for sampling in ({}, {"temperature": 0.9, "seed": 5}):
                answer = client.infer(prompt, max_tokens=30, **sampling)
                said.append((answer["text"], tokens(answer), answer["finish_reason"]))
        return said

    def check_family(self, model, *kv_flags):
        """kv_flags: of the router and of `moepool serve`."""
        flags = ("--model", model, "--http-address", "127.0.0.1:0", "--grpc-address", "127.0.0.1:0", "--kv-memory",
                 "64MiB", *kv_flags)
        serve = self.start("moepool", "serve", *flags, label="serve")
        ready = serve.wait_ready()
        client = cluster.Client(ready["http_address"], ready["grpc_address"])
        client.wait_ready()
        expected = self.answers(client)
        serve.signal(signal.SIGTERM)
        self.assertEqual(serve.wait_exit(), 0)
        for workers, transport, router_flags, worker_flags in (
                (1, "shm", (), ()), (2, "shm", (), ("--transport", "shm", "--isa", "scalar")),
                (3, "grpc", ("--step-tokens", "7"), ("--transport", "grpc", "--threads", "1")),
                (2, "grpc", ("--no-shared-memory", "--isa", "scalar"), ())):
            with self.subTest(workers=workers, transport=transport):
                pool = self.start_cluster(model, workers=workers, router_flags=(*router_flags, *kv_flags),
                                          worker_flags=worker_flags)
                status = pool.status()
                self.assertEqual([w["transport"] for w in status["workers"]], [transport] * workers, status)
                self.assertEqual(self.answers(pool.client), expected)
                pool.stop()

    def test_mixtral(self):
        self.check_family(cluster.tiny_mixtral())

    def test_dense(self):
        self.check_family(cluster.tiny_dense())

    def test_qwen3moe(self):
        self.check_family(cluster.tiny_qwen3moe())

    def test_qwen2moe_without_a_prefix_cache(self):
        self.check_family(cluster.tiny_qwen2moe(), "--prefix-cache", "off")

    def test_phimoe_with_keys_of_8_bits(self):
        self.check_family(cluster.tiny_phimoe(), "--kv-type", "q8_0")


if __name__ == "__main__":
    cluster.main()
