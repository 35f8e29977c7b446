#!/usr/bin/env python3
"""Writes gates.json: what transformers' routers choose for given logits.

Logits are multiples of 1/64, so that a case lies on neither side of an edge by rounding alone; some rows have ties, and
experts at the distances where sparsemixer keeps or drops them. Run by hand; made with torch 2.15.0 and transformers
5.23.0:

    python3 tests/golden/make_gates.py

[{rule: softmax, softmax_renormalized or sparsemixer; experts, k; logits64: [rows][experts], times 64;
  chosen: [rows][k], ascending; weights: [rows][k]}, ...]
"""

import json
import os

import numpy as np
import torch
from transformers.models.phimoe.modeling_phimoe import sparsemixer
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeTopKRouter

EPS = 0.01
ROWS = 48
EDGE = 1e-4  # the least distance of a ratio from 2 * EPS


class RouterConfig:
    def __init__(self, experts, k, renormalize):
        self.num_experts_per_tok, self.num_experts, self.norm_topk_prob = k, experts, renormalize
        self.hidden_size = experts


def softmax_gate(logits, k, renormalize):
    router = Qwen2MoeTopKRouter(RouterConfig(logits.shape[1], k, renormalize))
    router.weight.data = torch.eye(logits.shape[1])
    _, weights, chosen = router(logits)
    return chosen, weights


def sparsemixer_gate(logits):
    weights, chosen = sparsemixer(logits, jitter_eps=EPS, training=False)
    return chosen, weights


def near_an_edge(row):
    top = np.sort(row)[::-1]
    for m in top[:2]:
        with np.errstate(all="ignore"):
            apart = (m - row) / np.maximum(np.abs(row), m)
        if (np.abs(apart - 2 * EPS) < EDGE).any():
            return True
    return False


def draw(random, experts, k, sparse):
    """Rows of any sign and size. topk leaves ties open, so only sparsemixer's rows have them."""
    rows = []
    while len(rows) < ROWS:
        center, spread = random.choice([-4.0, 0.0, 4.0]), random.choice([0.1, 1.0, 3.0])
        row = np.round(random.normal(center, spread, experts) * 64) / 64
        if sparse and len(rows) % 4 == 0:  # two or three alike at the top
            row[random.choice(experts, min(experts, random.integers(2, 4)), replace=False)] = row.max()
        if sparse and near_an_edge(row):
            continue
        if not sparse and len(set(np.sort(row)[::-1][:k + 1])) < min(k + 1, experts):
            continue
        rows.append(row)
    return np.array(rows)


def main():
    random = np.random.default_rng(77)
    cases = []
    for rule, experts, k in [("softmax", 16, 2), ("softmax", 5, 3), ("softmax_renormalized", 16, 2),
                             ("softmax_renormalized", 64, 8), ("sparsemixer", 16, 2), ("sparsemixer", 3, 2)]:
        rows = draw(random, experts, k, rule == "sparsemixer")
        logits = torch.from_numpy(rows).float()
        chosen, weights = (sparsemixer_gate(logits) if rule == "sparsemixer" else
                           softmax_gate(logits, k, rule == "softmax_renormalized"))
        order = chosen.argsort(-1)
        cases.append(dict(rule=rule, experts=experts, k=k, logits64=(rows * 64).astype(int).tolist(),
                          chosen=chosen.gather(-1, order).tolist(),
                          weights=[[float(f"{w:.9g}") for w in row] for row in weights.gather(-1, order).tolist()]))
        print(f"{rule} {k} of {experts}: {len(rows)} rows")
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "gates.json")
    with open(path, "w") as out:
        json.dump(cases, out, separators=(",", ":"))
        out.write("\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
