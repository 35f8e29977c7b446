#!/usr/bin/env python3
"""Writes tests/golden/dequant.bin: blocks of every type with their values by the reference of the gguf package.

Usage: make_dequant.py OUTPUT        (needs: pip install gguf numpy; made with gguf 0.19.0, numpy 2.4.6)

Layout, little-endian: "DQ01", then for each type: ggml type u32, columns u32, rows u32, the blocks, the values as f32.
The blocks are random bytes with sound scales, so that every code and every packing of scales occurs.
"""
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as T
from gguf.quants import dequantize

# type: (columns of a row, offsets within a block of its f16 scales)
TYPES = {
    T.F32: (48, []), T.F16: (48, []), T.BF16: (48, []),
    T.Q4_0: (96, [0]), T.Q4_1: (96, [0, 2]), T.Q8_0: (96, [0]),
    T.Q4_K: (512, [0, 2]), T.Q6_K: (512, [208]),
    T.Q5_0: (96, [0]), T.Q5_1: (96, [0, 2]), T.IQ4_NL: (96, [0]),
    T.Q2_K: (512, [80, 82]), T.Q3_K: (512, [108]), T.Q5_K: (512, [0, 2]),
    T.MXFP4: (160, []),
}
ROWS = 3
# The E8M0 bytes of the blocks of MXFP4: those of subnormal scales, the largest whose weights are all finite.
EXPONENTS = [0, 1, 2, 3, 100, 119, 120, 121, 122, 123, 124, 127, 200, 251, 252]


def blocks_of(kind, columns, scales, rng):
    if kind in (T.F32, T.F16, T.BF16):
        values = rng.standard_normal((ROWS, columns)).astype(np.float32)
        if kind == T.F32:
            return values.view(np.uint8).reshape(ROWS, -1)
        if kind == T.F16:
            return values.astype(np.float16).view(np.uint8).reshape(ROWS, -1)
        return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(ROWS, -1)
    block_columns, block_bytes = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (ROWS * columns // block_columns, block_bytes), dtype=np.uint8)
    for at in scales:
        half = (rng.standard_normal(len(blocks)) * 0.01).astype(np.float16)
        blocks[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    if kind == T.MXFP4:
        blocks[:, 0] = EXPONENTS
    return blocks.reshape(ROWS, -1)


def main():
    rng = np.random.default_rng(20240601)
    with open(sys.argv[1], "wb") as out:
        out.write(b"DQ01")
        for kind, (columns, scales) in TYPES.items():
            data = np.ascontiguousarray(blocks_of(kind, columns, scales, rng))
            out.write(struct.pack("<III", int(kind), columns, ROWS))
            out.write(data.tobytes())
            out.write(dequantize(data, kind).astype("<f4").tobytes())


main()
