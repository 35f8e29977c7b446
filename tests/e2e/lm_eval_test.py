"""lm-evaluation-harness against the real cluster: local-completions and local-chat-completions on tasks from files.

No hub: the tokenizer is the gateway's own (/tokenize, /detokenize, /tokenizer_info). Every log-likelihood that the
harness gets is computed here a second time, from `moepool logits` of one process.
"""

import json
import os
import pathlib
import unittest

import cluster
from cluster import E2eTest, SCRATCH, tool
from smollm2_test import MODEL

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HOME=str(SCRATCH / "hf"),
                  HF_DATASETS_CACHE=str(SCRATCH / "hf" / "datasets"), TQDM_DISABLE="1")

import lm_eval  # noqa: E402  (reads the variables above)
import lm_eval.tasks  # noqa: E402
import numpy  # noqa: E402

TASKS = pathlib.Path(__file__).parents[1] / "clients" / "lm_eval_tasks"
# Logits of a batch and of one sequence are equal bit for bit; what is left is the sum in float32 here, and the digits
# of the JSON.
TOLERANCE = 2e-4


class LmEvalTest(E2eTest):
    @classmethod
    def setUpClass(cls):
        cls.pool = cluster.Cluster(MODEL, kv_memory="256MiB")
        cls.addClassCleanup(lambda: cluster.kill_all(cls.pool.processes))
        cls.addClassCleanup(cls.pool.stop)
        cls.name = cls.pool.client.get("/v1/models").json()["data"][0]["id"]
        folder = SCRATCH / "tasks"
        folder.mkdir()
        for path in TASKS.glob("*.yaml"):
            (folder / path.name).write_text(path.read_text(encoding="utf-8").replace("{folder}", str(TASKS)),
                                            encoding="utf-8")
        cls.tasks = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)

    def evaluate(self, model, path, task, chat=False, **args):
        made = lm_eval.simple_evaluate(
            model=model, tasks=[task], task_manager=self.tasks, apply_chat_template=chat, bootstrap_iters=0,
            model_args={"model": self.name, "base_url": f"http://{self.pool.client.http_address}{path}",
                        "max_retries": 1, "max_length": 1024, **args})
        return made["results"][task], made["samples"][task]

    def ids(self, text):
        return self.pool.client.post("/tokenize", {"text": text, "parse_special": True}).json()["ids"]

    def expected(self, pairs):
        """[(log-likelihood, greedy)] of each (ids before, ids after)."""
        sequences = [before + after for before, after in pairs]
        tokens, out = SCRATCH / "tokens.json", SCRATCH / "logits.npy"
        tokens.write_text(json.dumps(sequences), encoding="utf-8")
        made = tool("logits", "--model", MODEL, "--tokens-file", tokens, "--out", out)
        self.assertEqual(made.returncode, 0, made.stderr.decode())
        logits = numpy.load(out).astype(numpy.float64)
        self.assertEqual(len(logits), sum(map(len, sequences)))
        logprobs = logits - numpy.logaddexp.reduce(logits, axis=1, keepdims=True)
        results, begin = [], 0
        for (before, after), sequence in zip(pairs, sequences):
            rows = logprobs[begin + len(before) - 1:begin + len(sequence) - 1]
            results.append((sum(row[i] for row, i in zip(rows, after)),
                            all(row.argmax() == i for row, i in zip(rows, after))))
            begin += len(sequence)
        return results

    def test_log_likelihoods_are_those_of_the_logits(self):
        results, samples = self.evaluate("local-completions", "/v1/completions", "moepool_capitals",
                                         tokenizer_backend="remote")
        rows = [json.loads(line) for line in (TASKS / "capitals.jsonl").read_text(encoding="utf-8").splitlines()]
        pairs = []
        for row in rows:
            before = self.ids(row["question"])
            pairs += [(before, self.ids(f"{row['question']} {text}")[len(before):]) for text in row["choices"]]
        computed = iter(self.expected(pairs))
        right = 0
        for sample, row in zip(sorted(samples, key=lambda s: s["doc_id"]), rows):
            expected = [next(computed) for _ in row["choices"]]
            found = [response[0] for response in sample["resps"]]
            for (mine, greedy), (theirs, said_greedy) in zip(expected, found):
                self.assertAlmostEqual(mine, theirs, delta=TOLERANCE)
                self.assertEqual(greedy, said_greedy, sample)
            right += max(range(4), key=lambda i: expected[i][0]) == row["gold"]
        self.assertAlmostEqual(results["acc,none"], right / len(rows))
        print(f"capitals: {results}")
        # By guessing it would be a quarter.
        self.assertGreaterEqual(right, len(rows) // 2)
        batched, _ = self.evaluate("local-completions", "/v1/completions", "moepool_capitals",
                                   tokenizer_backend="remote", num_concurrent=4, batch_size=3)
        self.assertEqual(batched["acc,none"], results["acc,none"])

    def test_rolling_log_likelihood(self):
        results, samples = self.evaluate("local-completions", "/v1/completions", "moepool_prose",
                                         tokenizer_backend="remote")
        text = json.loads((TASKS / "prose.jsonl").read_text(encoding="utf-8"))["text"]
        info = self.pool.client.get("/tokenizer_info").json()
        prefix = self.ids(info.get("bos_token") or info["eos_token"])
        self.assertEqual(len(prefix), 1)
        ((expected, _),) = self.expected([(prefix, self.ids(text))])
        self.assertAlmostEqual(expected, samples[0]["resps"][0][0], delta=1e-2)
        self.assertAlmostEqual(results["byte_perplexity,none"], numpy.exp(-expected / len(text.encode())), places=3)

    def test_generation_by_both_endpoints(self):
        for model, path, chat, args in (
                ("local-completions", "/v1/completions", False, {"tokenizer_backend": "remote"}),
                ("local-completions", "/v1/completions", False, {"tokenizer_backend": "none"}),
                ("local-chat-completions", "/v1/chat/completions", True, {"num_concurrent": 2})):
            with self.subTest(model=model, **args):
                results, samples = self.evaluate(model, path, "moepool_sums", chat=chat, **args)
                print(f"sums by {model}: {results}")
                for sample in samples:
                    question = sample["doc"]["question"] + " Answer with a number.\n"
                    fields = {"messages": [{"role": "user", "content": question}]} if chat else \
                        {"prompt": question, "raw": True}
                    said = self.pool.client.post("/infer", {**fields, "max_tokens": 24, "stop": ["\n\n"]}).json()
                    self.assertEqual(sample["resps"][0][0].strip(), said["text"].strip())
                right = sum(bool(s["exact_match"]) for s in samples)
                self.assertAlmostEqual(results["exact_match,number"], right / len(samples))


if __name__ == "__main__":
    cluster.main()
