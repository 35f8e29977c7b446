#!/usr/bin/env python3
"""Writes smollm2_kl.bin: how far llama.cpp is from an F32 computation of SmolLM2-135M-Instruct.Q4_1, in a form small enough
to keep. Run by hand, with numpy:

    make_smollm2.py F32.npy LLAMA.npy tests/golden/smollm2_kl.bin

Both arrays are f32 [positions, vocabulary]: the logits of positions 256 to 511 of the first two 512-token chunks of
opticks.txt (Newton's Opticks of 1730, book 1, in the public domain). F32.npy came from transformers 5.23.0 over the
file's own weights, dequantised with the gguf package; LLAMA.npy from llama.cpp 0c1e57098 (flash attention off, KV
cache F16). The last position of a chunk predicts nothing and is left out.

For each position the 32 likeliest ids under F32 and all others together make a distribution of 33 events. The
divergence between two such distributions is a lower bound of that between the whole ones.

Layout, little-endian: u32 positions, u32 ids a position, f64 mean KL(F32 || llama.cpp) over the 33 events;
then u16 [positions, ids] and f32 [positions, ids] log-probabilities under F32.

smollm2_greedy.json, beside it: continuations of 20 prompts by the same llama.cpp build, [id, margin over the runner-up].
"""

import struct
import sys

import numpy as np

IDS = 32


def log_softmax(logits):
    shifted = logits - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


def events(log_probabilities, ids):
    p = np.exp(np.take_along_axis(log_probabilities, ids, 1))
    rest = np.maximum(1 - p.sum(1, keepdims=True), 1e-12)
    return np.log(np.concatenate([p, rest], 1))


def main():
    f32, llama = (log_softmax(np.asarray(np.load(path, mmap_mode="r")[:512], dtype=np.float64)) for path in sys.argv[1:3])
    rows = [r for r in range(512) if r % 256 != 255]
    ids = np.argsort(-f32, 1)[:, :IDS]
    ours, theirs = events(f32, ids)[rows], events(llama, ids)[rows]
    mean = (np.exp(ours) * (ours - theirs)).sum(1).mean()
    with open(sys.argv[3], "wb") as out:
        out.write(struct.pack("<IId", len(rows), IDS, mean))
        out.write(ids[rows].astype("<u2").tobytes())
        out.write(ours[:, :IDS].astype("<f4").tobytes())
    print(f"{len(rows)} positions, mean KL {mean:.6f}")


if __name__ == "__main__":
    main()
