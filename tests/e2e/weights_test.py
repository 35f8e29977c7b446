"""Weights that are kept packed: a second start reads or maps what the first has written, and answers the same."""

import json
import os
import pathlib
import stat
import unittest

import cluster
from cluster import SCRATCH, E2eTest, wait_for

PROMPT = "what was kept"
ANSWER = {"max_tokens": 24, "temperature": 0.7, "seed": 5}


def logged(process, message):
    """The lines of a process's log with this message."""
    lines = [json.loads(line) for line in process.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["message"] == message]


class WeightsTest(E2eTest):
    def setUp(self):
        self.directory = pathlib.Path(SCRATCH) / f"weights-{self.id()}"

    def files(self):
        return sorted(self.directory.glob("*.weights")) if self.directory.exists() else []

    def answer(self, model, *flags, directory=None):
        """Starts a cluster, asks it, and returns text, matrices packed and matrices from the cache; then stops it."""
        flags = ("--weights-cache", directory or self.directory, *flags)
        pool = self.start_cluster(model, workers=2, router_flags=flags, worker_flags=flags)
        text = pool.client.infer(PROMPT, **ANSWER)["text"]
        loads = [load for process in (pool.router, *pool.workers) for load in logged(process, "weights loaded")]
        self.assertGreaterEqual(len(loads), 3)
        if directory != "off":
            # What was packed is written in the background.
            wanted = sum(load["packed_bytes"] for load in loads)
            before = self.kept_bytes
            wait_for(lambda: sum(f.stat().st_size for f in self.files()) >= before + wanted, "kept weights")
            self.kept_bytes = sum(f.stat().st_size for f in self.files())
        self.last = pool
        pool.stop()
        return text, sum(load["packed"] for load in loads), sum(load["from_cache"] for load in loads)

    kept_bytes = 0

    def check(self, model):
        text, packed, cached = self.answer(model, directory="off")
        self.assertTrue(text)
        self.assertEqual(cached, 0)
        self.assertEqual(self.files(), [])
        self.assertEqual(self.answer(model), (text, packed, 0))
        self.assertEqual(stat.S_IMODE(os.stat(self.directory).st_mode), 0o700)
        for file in self.files():
            self.assertEqual(stat.S_IMODE(file.stat().st_mode), 0o600, file)
        for mode in ("read", "mmap"):
            again, repacked, from_cache = self.answer(model, "--weights", mode)
            self.assertEqual((again, repacked), (text, 0), mode)
            self.assertGreaterEqual(from_cache, packed, mode)
        return text, packed

    def test_a_second_start_uses_what_the_first_packed(self):
        self.check(cluster.tiny_phimoe())

    def test_slices_of_a_dense_model(self):
        self.check(cluster.tiny_dense())

    def test_damage_is_not_believed(self):
        model = cluster.tiny_qwen2moe()
        text, _ = self.check(model)
        for file in self.files():
            with open(file, "r+b") as damaged:
                damaged.seek(300)
                byte = damaged.read(1)
                damaged.seek(300)
                damaged.write(bytes([byte[0] ^ 0x10]))
        self.kept_bytes = 0
        again, repacked, _ = self.answer(model)
        self.assertEqual(again, text)
        self.assertGreater(repacked, 0)
        warnings = [w for process in (self.last.router, *self.last.workers)
                    for w in logged(process, "ignoring kept weights")]
        self.assertEqual(len(warnings), 3, warnings)
        self.assertIn("checksum", warnings[0]["cause"])

    def test_mmap_builds_the_files_first(self):
        model = cluster.tiny_mixtral()
        text, packed, _ = self.answer(model, directory="off")
        self.assertEqual(self.answer(model, "--weights", "mmap"), (text, packed, 0))
        self.assertNotEqual(self.files(), [])

    def test_flags_that_contradict_each_other(self):
        for program, flags in (("moepool-router", ()), ("moepool-expert-worker", ("--router", "127.0.0.1:1"))):
            made = cluster.run(program, *flags, "--model", cluster.tiny_dense(), "--weights", "mmap",
                               "--weights-cache", "off")
            self.assertEqual(made.returncode, 2, made.stderr)
            self.assertIn(b"mmap", made.stderr)


if __name__ == "__main__":
    cluster.main()
