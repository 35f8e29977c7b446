#!/usr/bin/env python3
"""Writes families/*.bin: logits of tiny random models as transformers computes them in F32 with eager attention.

The models come from `moepool synth` (any weights do; these can be made again by the test), are read back with the gguf
package and loaded into transformers' own classes: nothing of ours computes here but the random weights. Run by hand
when a family or a case is added; the tests read the files and need none of this. Made with torch 2.15.0,
transformers 5.23.0, gguf and numpy:

    python3 tests/golden/make_families.py build/release/bin/moepool

Layout of a file, little-endian:
    8 bytes  "MPGOLD1\\n"
    u32      length of the JSON that follows
    JSON     name; spec (the fields of SynthSpec; a field left out has its default; dtype F32); ids (the sequence);
             positions (of the rows below, ascending); vocab; gate_margin (the smallest distance over all rows and
             layers of the k-th router probability to the next, null where dense: how far rounding is from
             choosing another expert)
    f32      [positions, vocab] logits
"""

import itertools
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
from gguf import GGUFReader, quants
from transformers import (LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

VOCAB = 267  # the least that the synthetic tokenizer takes
MIN_GATE_MARGIN = 1e-4

# Edges of the KV blocks (16 positions) and of the attention splits (256); every position would make a large file.
LONG = [0, 1, 15, 16, 17, 31, 32, *range(240, 300)]

# name, tokens, positions (None: all), fields of SynthSpec. Shapes are odd on purpose: an FFN that is no multiple of 32,
# one KV head, heads * head_dim unequal to hidden, experts that are no power of two.
CASES = [
    ("llama", 53, None, dict(family="llama", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, ffn=208)),
    ("llama_tied_bias", 41, None, dict(family="llama", hidden=80, layers=3, heads=5, kv_heads=1, head_dim=16, ffn=96,
                                       tied_embeddings=True, qkv_bias=True)),
    ("llama_rope_freqs", 67, None, dict(family="llama", hidden=72, layers=2, heads=3, kv_heads=3, head_dim=24, ffn=130,
                                        rope_base=500000.0, rope_freqs=True)),
    ("llama_rope_linear", 47, None, dict(family="llama", hidden=64, layers=2, heads=2, kv_heads=1, head_dim=32, ffn=33,
                                         rope_linear_factor=4.0)),
    ("llama_long", 300, LONG, dict(family="llama", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, ffn=544)),
    ("mixtral_16x2", 61, None, dict(family="llama", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, experts=16,
                                    experts_per_token=2, ffn=64)),
    ("mixtral_6x3", 49, None, dict(family="llama", hidden=64, layers=2, heads=4, kv_heads=1, head_dim=24, experts=6,
                                   experts_per_token=3, ffn=72)),
    ("mixtral_long", 300, LONG, dict(family="llama", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, experts=8,
                                     experts_per_token=2, ffn=48)),
    ("qwen3moe_16x2", 70, None, dict(family="qwen3moe", hidden=96, layers=2, heads=4, kv_heads=2, head_dim=32,
                                     experts=16, experts_per_token=2, ffn=64, rope_base=1000000.0)),
    ("qwen3moe_6x3", 43, None, dict(family="qwen3moe", hidden=80, layers=3, heads=3, kv_heads=1, head_dim=48, experts=6,
                                    experts_per_token=3, ffn=40)),
    ("qwen3moe_long", 300, LONG, dict(family="qwen3moe", hidden=96, layers=2, heads=4, kv_heads=1, head_dim=32,
                                      experts=16, experts_per_token=2, ffn=32, tied_embeddings=True)),
]


def synthesize(moepool, spec, path):
    command = [moepool, "synth", "--dtype", "F32", "--vocab", str(VOCAB), "--out", path]
    for field, value in spec.items():
        flag = "--" + field.replace("_", "-")
        command += [flag] if value is True else [flag, str(value)]
    subprocess.run(command, check=True)


def read_gguf(path):
    reader = GGUFReader(path)
    tensors = {t.name: torch.from_numpy(np.array(quants.dequantize(t.data, t.tensor_type), dtype=np.float32))
               for t in reader.tensors}
    return {name: field.contents() for name, field in reader.fields.items()}, tensors


def make_config(keys, tensors):
    arch = keys["general.architecture"]
    key = lambda suffix, default=None: keys.get(f"{arch}.{suffix}", default)
    rope = {"rope_type": "default", "rope_theta": key("rope.freq_base")}
    if key("rope.scaling.type") == "linear":
        rope |= {"rope_type": "linear", "factor": key("rope.scaling.factor")}
    common = dict(
        vocab_size=key("vocab_size"), hidden_size=key("embedding_length"), num_hidden_layers=key("block_count"),
        num_attention_heads=key("attention.head_count"), num_key_value_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length"), max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"), rope_parameters=rope, hidden_act="silu",
        tie_word_embeddings="output.weight" not in tensors, attn_implementation="eager")
    if arch == "qwen3moe":
        return Qwen3MoeForCausalLM, Qwen3MoeConfig(
            **common, num_experts=key("expert_count"), num_experts_per_tok=key("expert_used_count"),
            moe_intermediate_size=key("expert_feed_forward_length"), norm_topk_prob=True, decoder_sparse_step=1,
            mlp_only_layers=[], experts_implementation="eager")
    if key("expert_count", 0):
        return MixtralForCausalLM, MixtralConfig(
            **common, intermediate_size=key("feed_forward_length"), num_local_experts=key("expert_count"),
            num_experts_per_tok=key("expert_used_count"), sliding_window=None, experts_implementation="eager")
    return LlamaForCausalLM, LlamaConfig(
        **common, intermediate_size=key("feed_forward_length"), attention_bias="blk.0.attn_q.bias" in tensors)


def halves(rows, heads):
    """`llama` files hold a head's rows as the pairs (0, 1), (2, 3), … that rotate; transformers rotates (i, i + d/2)."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def state_dict(config, arch, tensors):
    paired = halves if arch == "llama" else lambda rows, heads: rows
    state = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "model.norm.weight": tensors["output_norm.weight"],
        "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"]),
    }
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        source, target = f"blk.{layer}.", f"model.layers.{layer}."
        get = lambda name: tensors[source + name]
        for one in "qkv":
            for kind in ("weight", "bias"):
                if (name := f"{source}attn_{one}.{kind}") in tensors:
                    rows = tensors[name]
                    state[f"{target}self_attn.{one}_proj.{kind}"] = paired(rows, heads[one]) if one in heads else rows
        if getattr(config, "attention_bias", False):  # transformers has one on the output too, such files do not
            state[target + "self_attn.o_proj.bias"] = torch.zeros(config.hidden_size)
        if source + "attn_q_norm.weight" in tensors:
            state[target + "self_attn.q_norm.weight"] = get("attn_q_norm.weight")
            state[target + "self_attn.k_norm.weight"] = get("attn_k_norm.weight")
        state[target + "self_attn.o_proj.weight"] = get("attn_output.weight")
        state[target + "input_layernorm.weight"] = get("attn_norm.weight")
        state[target + "post_attention_layernorm.weight"] = get("ffn_norm.weight")
        if source + "ffn_gate_inp.weight" in tensors:
            state[target + "mlp.gate.weight"] = get("ffn_gate_inp.weight")
            state[target + "mlp.experts.gate_up_proj"] = torch.cat(
                [get("ffn_gate_exps.weight"), get("ffn_up_exps.weight")], dim=1)
            state[target + "mlp.experts.down_proj"] = get("ffn_down_exps.weight")
        else:
            for one in ("gate", "up", "down"):
                state[f"{target}mlp.{one}_proj.weight"] = get(f"ffn_{one}.weight")
    return state


def load(path):
    keys, tensors = read_gguf(path)
    cls, config = make_config(keys, tensors)
    model = cls(config).float().eval()
    model.load_state_dict(state_dict(config, keys["general.architecture"], tensors), strict=True)
    if "rope_freqs.weight" in tensors:  # divisors of the frequencies, as Llama 3's files have them
        model.model.rotary_emb.inv_freq /= tensors["rope_freqs.weight"]
    return model


def gate_margins(model, margins):
    """Notes for each row of each layer how far the k-th router probability is from the next."""
    def hook(module, _, output):
        top = torch.softmax(output[0].float(), -1).sort(-1, descending=True).values
        margins.append((top[:, module.top_k - 1] - top[:, module.top_k]).min().item())
    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(hook)


def reference(moepool, spec, ids):
    """Logits [ids, vocab] of the model of `spec`, and its smallest gate margin (None where dense)."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "model.gguf")
        synthesize(moepool, spec, path)
        model = load(path)
    margins = []
    gate_margins(model, margins)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    return logits, min(margins, default=None)


def write(path, header, logits):
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(b"MPGOLD1\n" + struct.pack("<I", len(text)) + text + logits.astype("<f4").tobytes())


def main():
    moepool = sys.argv[1]
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
    os.makedirs(folder, exist_ok=True)
    for number, (name, tokens, positions, fields) in enumerate(CASES):
        ids = np.random.default_rng(2000 + number).integers(0, VOCAB, tokens)
        # Seeds are tried until no row of the sequence is so near to another choice of experts that rounding decides.
        for seed in itertools.count(1000 * (number + 1)):
            spec = fields | dict(seed=seed)
            logits, margin = reference(moepool, spec, ids)
            if margin is None or margin >= MIN_GATE_MARGIN:
                break
        positions = list(range(tokens)) if positions is None else positions
        header = dict(name=name, spec=spec | dict(vocab=VOCAB), ids=ids.tolist(), positions=positions, vocab=VOCAB,
                      gate_margin=margin)
        write(os.path.join(folder, name + ".bin"), header, logits[positions])
        print(f"{name}: {len(positions)} of {tokens} positions, seed {seed}, logits within {logits.min():.2f} to "
              f"{logits.max():.2f}, gate margin {margin}")


if __name__ == "__main__":
    main()
