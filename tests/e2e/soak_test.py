"""An hour of mixed traffic over a pool that loses and gains workers: memory and descriptors stay flat.

MOEPOOL_SOAK_MINUTES (60) sets the length. Every answer is compared with the one that an idle pool gave before. The KV
cache is small, so that blocks are evicted all the time. Memory is the resident set of gateway, router and the worker
that is never killed; what the first fifth of the time fills (pools, arenas, caches) does not count.
"""

import os
import random
import statistics
import threading
import time
import unittest

import cluster
from cluster import E2eTest, synth

MINUTES = float(os.environ.get("MOEPOOL_SOAK_MINUTES", "60"))
CLIENTS = 6
PAUSE_S = 0.2  # between a client's requests, at most
SAMPLE_S = 2.0
KILL_EVERY_S = 45.0
# Growth of the median over the second half of the settled time against the first half.
MEMORY_GROWTH = 1.02
MEMORY_SLACK_BYTES = 2 << 20
SEED = 20261124


def resident_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no VmRSS")


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def requests():
    """Prompts that share prefixes, of all lengths that the small KV cache takes."""
    rng = random.Random(SEED)
    stem = " ".join(f"word{rng.randrange(1000)}" for _ in range(60))
    made = []
    for i in range(40):
        prompt = stem[:rng.choice((0, 40, 160, 300))] + f" client {i} 你好 🙂 " + "x" * rng.randrange(120)
        made.append((prompt, {"max_tokens": rng.randrange(1, 60), "temperature": rng.choice((0.0, 0.9)), "seed": i,
                              "raw": True}))
    return made


class Traffic:
    """One client: asks in random ways until told to stop, and remembers what went wrong."""

    def __init__(self, client, expected, number, stop):
        self.client = client
        self.expected = expected
        self.rng = random.Random(SEED + number)
        self.stop = stop
        self.answers = 0
        self.hang_ups = 0
        self.refused = 0
        self.wrong = []
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stop.is_set() and len(self.wrong) < 10:
            try:
                self.one()
            except (OSError, AssertionError, ValueError) as error:
                self.wrong.append(repr(error))
            self.stop.wait(self.rng.uniform(0, PAUSE_S))

    def one(self):
        prompt, fields, text = self.rng.choice(self.expected)
        way = self.rng.random()
        if way < 0.45:
            got = self.client.infer(prompt, **fields)["text"]
        elif way < 0.8:
            stream = self.client.stream(prompt, **fields).read()
            got = stream.text if stream.done and stream.error is None else stream.error
        elif way < 0.9:
            self.client.stream(prompt, **fields).read(pieces=1).hang_up()
            self.hang_ups += 1
            return
        elif way < 0.95:
            bad = self.rng.choice(({"prompt": 3}, {"prompt": "a", "top_p": 7}, {"prompt": "a", "unknown": 1}))
            answer = self.client.post("/infer", bad)
            if answer.status != 400:
                self.wrong.append(f"{bad}: {answer}")
            self.refused += 1
            return
        else:
            self.client.post("/tokenize", {"text": prompt})
            self.client.get("/metrics")
            return
        self.answers += 1
        if got != text:
            self.wrong.append(f"{prompt!r} {fields}: {got!r}, alone it was {text!r}")


class SoakTest(E2eTest):
    def test_memory_and_descriptors_are_flat(self):
        model = synth("soak-mixtral", hidden=64, layers=3, experts=16, experts_per_token=2, ffn=64, context=1024)
        pool = self.start_cluster(model, workers=3, kv_memory="1MiB", router_flags=("--holder-timeout", "60"))
        expected = [(prompt, fields, pool.client.infer(prompt, **fields)["text"]) for prompt, fields in requests()]
        watched = {"gateway": pool.gateway, "router": pool.router, "worker": pool.workers[0]}
        samples = {name: [] for name in watched}
        stop = threading.Event()
        clients = [Traffic(pool.client, expected, i, stop) for i in range(CLIENTS)]
        began = time.monotonic()
        next_kill = began + KILL_EVERY_S
        kills = 0
        try:
            while time.monotonic() - began < MINUTES * 60 and not any(client.wrong for client in clients):
                stop.wait(SAMPLE_S)
                if time.monotonic() >= next_kill:
                    victim = pool.workers.pop()
                    victim.kill()
                    pool.start_worker().wait_ready()
                    kills += 1
                    next_kill += KILL_EVERY_S
                for name, process in watched.items():
                    samples[name].append((resident_bytes(process.pid), descriptors(process.pid)))
        finally:
            stop.set()
            for client in clients:
                client.thread.join()
        self.assertEqual([wrong for client in clients for wrong in client.wrong], [])
        pool.wait_idle()
        evictions = pool.metric("moepool_kv_cache_evictions_total")
        self.assertGreater(evictions, 0)
        print(f"    {sum(c.answers for c in clients)} answers, {sum(c.hang_ups for c in clients)} hang-ups, "
              f"{sum(c.refused for c in clients)} bad requests, {kills} workers killed, "
              f"{evictions:.0f} blocks evicted")
        for name, seen in samples.items():
            settled = seen[len(seen) // 5:]
            half = len(settled) // 2
            self.assertGreater(half, 0)
            for what, index in (("resident bytes", 0), ("descriptors", 1)):
                before = statistics.median(sample[index] for sample in settled[:half])
                after = statistics.median(sample[index] for sample in settled[half:])
                print(f"    {name}: {what} {before:.0f}, then {after:.0f} (x{after / before:.4f})")
                limit = before * MEMORY_GROWTH + MEMORY_SLACK_BYTES if index == 0 else before + 4
                with self.subTest(process=name, what=what):
                    self.assertLessEqual(after, limit)


if __name__ == "__main__":
    cluster.main()
