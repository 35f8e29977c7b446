"""Who holds which weights, read from /proc/PID/smaps: the router no expert, each worker its own experts alone."""

import os
import re
import unittest

import cluster
import gguf
from cluster import E2eTest

LAYERS, EXPERTS = 6, 16
PAGE = os.sysconf("SC_PAGE_SIZE")
# Code, stacks, gRPC and scratch buffers of a process with no weights at all stay under this.
BASE_BYTES = 40 << 20
KV_BYTES = 8 << 20


def model():
    """About 145 MB, nearly all of it experts."""
    return cluster.synth("mid-mixtral", hidden=512, layers=LAYERS, heads=8, kv_heads=4, head_dim=64, experts=EXPERTS,
                         experts_per_token=2, ffn=928, context=512, dtype="Q8_0", seed=4)


class Memory:
    """Mappings of the model file as [begin, end) in the file, and resident bytes that belong to no file."""

    def __init__(self, pid, path):
        self.file_ranges = []
        self.anonymous_bytes = 0
        name = os.path.realpath(path)
        anonymous = False
        with open(f"/proc/{pid}/smaps", encoding="utf-8") as smaps:
            for line in smaps:
                header = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ (\d+)\s*(.*)", line)
                if header:
                    begin, end, offset = (int(x, 16) for x in header.group(1, 2, 3))
                    anonymous = header.group(4) == "0"
                    if header.group(5).strip() == name:
                        self.file_ranges.append((offset, offset + end - begin))
                elif anonymous and line.startswith("Rss:"):
                    self.anonymous_bytes += int(line.split()[1]) << 10


def expert_ranges(tensors, experts):
    """[begin, end) in the file of these experts' weights."""
    ranges = []
    for tensor in tensors.values():
        if "_exps." in tensor.name:
            size = tensor.bytes // EXPERTS
            ranges += [(tensor.begin + e * size, tensor.begin + (e + 1) * size) for e in experts]
    return ranges


def overlaps(mapped, ranges):
    """Mapped ranges that reach into `ranges` by a page or more; less is the neighbour on a shared page."""
    return [(m, r) for m in mapped for r in ranges if min(m[1], r[1]) - max(m[0], r[0]) >= PAGE]


class MemoryMapTest(E2eTest):
    def check(self, pool, tensors):
        all_experts = expert_ranges(tensors, range(EXPERTS))
        self.assertGreater(len(all_experts), 0)
        expert_bytes = sum(end - begin for begin, end in all_experts)
        trunk_bytes = sum(t.bytes for t in tensors.values()) - expert_bytes
        self.assertGreater(expert_bytes, 2.5 * BASE_BYTES)  # otherwise the bounds below say nothing

        router = Memory(pool.router.pid, pool.model)
        self.assertEqual(overlaps(router.file_ranges, all_experts), [])
        self.assertLess(router.anonymous_bytes, trunk_bytes * 1.2 + KV_BYTES + BASE_BYTES)
        by_pid = {worker["name"].rsplit(":", 1)[1]: worker for worker in pool.status()["workers"]}
        held = 0
        for process in pool.workers:
            worker = by_pid[str(process.pid)]
            first, last = (int(x) for x in worker["experts"].split("-"))
            own = range(first, last + 1)
            held += len(own)
            others = expert_ranges(tensors, [e for e in range(EXPERTS) if e not in own])
            memory = Memory(process.pid, pool.model)
            self.assertEqual(overlaps(memory.file_ranges, others), [], worker)
            share = expert_bytes * len(own) / EXPERTS
            self.assertGreater(memory.anonymous_bytes, share * 0.98, worker)
            self.assertLess(memory.anonymous_bytes, share * 1.05 + BASE_BYTES, worker)
            self.assertLess(abs(worker["expert_bytes"] - share), share * 0.05, worker)
        self.assertEqual(held, EXPERTS)

    def test_each_process_has_its_own_weights_alone(self):
        metadata, tensors = gguf.read(model())
        self.assertEqual(metadata["llama.expert_count"], EXPERTS)
        self.assertEqual(max(t.end for t in tensors.values()), os.path.getsize(model()))
        pool = self.start_cluster(model(), workers=2, kv_memory=KV_BYTES, router_flags=("--heartbeat", "0.05"))
        # A heartbeat sent while a worker loaded tells of a part of it.
        all_bytes = sum(end - begin for begin, end in expert_ranges(tensors, range(EXPERTS)))
        pool.wait_status(lambda s: sum(w["expert_bytes"] for w in s["workers"]) > 0.95 * all_bytes, "heartbeats")
        self.check(pool, tensors)
        pool.client.infer("the memory of the pool", max_tokens=12)
        self.check(pool, tensors)


if __name__ == "__main__":
    cluster.main()
