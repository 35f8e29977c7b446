"""The models of the comparison: how `moepool synth` makes them, and what each token reads and computes.

The bytes follow from the shapes alone; file_bytes() is the same sum over all experts, so that a file's size checks them.
"""

import dataclasses

# Bytes of 256 weights.
BYTES_OF_256 = {"q4_0": 8 * 18, "q8_0": 8 * 34, "q4_k": 144, "q6_k": 210}
# Type of a file to (type of its matrices, type of those that get more bits).
MATRIX_TYPES = {"q4_0": ("q4_0", "q4_0"), "q8_0": ("q8_0", "q8_0"), "q4_k_m": ("q4_k", "q6_k")}
K_QUANTS = ("q4_k_m",)


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model with `experts` experts a layer, `top_k` of them a token, each of 3 matrices [hidden, ffn]."""
    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    experts: int = 16
    top_k: int = 2
    vocab: int = 32000
    context: int = 4096

    def synth_flags(self, dtype):
        return ["--name", self.name, "--family", self.family, "--hidden", self.hidden, "--layers", self.layers,
                "--heads", self.heads, "--kv-heads", self.kv_heads, "--head-dim", self.head_dim,
                "--experts", self.experts, "--experts-per-token", self.top_k, "--ffn", self.ffn,
                "--vocab", self.vocab, "--context", self.context, "--dtype", dtype.upper()]

    def gets_more_bits(self, layer):
        """As in the mixed types: the first and last eighth of the layers, and each third between."""
        eighth = self.layers // 8
        return layer < eighth or layer >= 7 * self.layers // 8 or (layer - eighth) % 3 == 2

    def layer_bytes(self, dtype, experts):
        """Of all layers' weights, with `experts` experts of each (a mean may be fractional)."""
        plain, more = (BYTES_OF_256[t] / 256 for t in MATRIX_TYPES[dtype])
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        total = 0.0
        for layer in range(self.layers):
            rich = more if self.gets_more_bits(layer) else plain
            total += self.hidden * ((2 * q + kv) * plain + kv * rich)
            total += experts * self.hidden * self.ffn * (2 * plain + rich)
            total += 4 * self.hidden * self.experts  # the gate is f32
        return total

    def head_bytes(self, dtype):
        return self.vocab * self.hidden * BYTES_OF_256[MATRIX_TYPES[dtype][1]] / 256

    def file_bytes(self, dtype):
        """Of all matrices; norms, biases, metadata and vocabulary come on top."""
        embedding = self.vocab * self.hidden * BYTES_OF_256[MATRIX_TYPES[dtype][0]] / 256
        return self.layer_bytes(dtype, self.experts) + embedding + self.head_bytes(dtype)

    def experts_read(self, rows):
        """Distinct experts of a layer that `rows` rows visit, on average, where the gate favours none."""
        return self.experts * (1 - (1 - self.top_k / self.experts) ** rows)

    def kv_bytes(self, tokens):
        """f16 keys and values of `tokens` positions."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim * tokens

    def step_bytes(self, dtype, rows, positions=0, head=True):
        """Read in a step of `rows` rows whose sequences hold `positions` positions in all."""
        read = self.layer_bytes(dtype, self.experts_read(rows)) + self.kv_bytes(positions)
        return read + (self.head_bytes(dtype) if head else 0)

    def token_ops(self, head=True):
        """Multiplications and additions of the matrix products of one row."""
        attention = self.hidden * 2 * (self.heads + self.kv_heads) * self.head_dim
        weights = self.layers * (attention + self.top_k * 3 * self.hidden * self.ffn)
        return 2 * (weights + (self.vocab * self.hidden if head else 0))


_BIG = {"hidden": 2048, "layers": 16, "heads": 16, "kv_heads": 4, "head_dim": 128, "ffn": 3584}
_TINY = {"hidden": 512, "layers": 8, "heads": 8, "kv_heads": 2, "head_dim": 64, "ffn": 1024}
SHAPES = {shape.name: shape for shape in (
    Shape("moe16-5b", "phimoe", **_BIG), Shape("mix16-5b", "llama", **_BIG),
    Shape("moe16-tiny", "phimoe", **_TINY), Shape("mix16-tiny", "llama", **_TINY))}
