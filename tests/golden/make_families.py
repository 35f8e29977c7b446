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
             positions (of the rows below, ascending); vocab; experts ([layers][ids][experts_per_token], ascending:
             what the router modules chose; null where dense); gate_margin (the smallest distance over all rows and
             layers to another choice: how far rounding is from it; null where dense)
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
from transformers import (LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, MixtralConfig,
                          MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM, PhimoeConfig, PhimoeForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM, Qwen3MoeConfig,
                          Qwen3MoeForCausalLM)

VOCAB = 267  # the least that the synthetic tokenizer takes
MIN_GATE_MARGIN = 1e-4
# Of the published Phi-3.5-MoE; its GGUF files carry neither.
PHIMOE_MSCALE = 1.243163121016122
PHIMOE_JITTER_EPS = 0.01

# Edges of the KV blocks (16 positions) and of the attention splits (256); every position would make a large file.
LONG = [0, 1, 15, 16, 17, 31, 32, *range(240, 300)]

# And those of a window of 24.
WINDOW_24 = [0, 1, 15, 16, 17, *range(22, 50), *range(253, 300)]

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
    ("tinyllama", 45, None, dict(family="llama", hidden=128, layers=3, heads=8, kv_heads=1, head_dim=16, ffn=352)),
    ("mistral_window", 300, WINDOW_24, dict(family="llama", hidden=64, layers=3, heads=4, kv_heads=2, head_dim=16,
                                            ffn=144, sliding_window=24)),
    ("mixtral_window", 120, None, dict(family="llama", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, experts=6,
                                       experts_per_token=2, ffn=40, sliding_window=16, rope_base=1000000.0)),
    ("mixtral_split", 37, None, dict(family="llama", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, experts=5,
                                     experts_per_token=2, ffn=48, split_experts=True)),
    ("qwen2", 53, None, dict(family="qwen2", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, ffn=208,
                             rope_base=1000000.0)),
    ("qwen2_tied", 39, None, dict(family="qwen2", hidden=80, layers=3, heads=5, kv_heads=1, head_dim=16, ffn=33,
                                  tied_embeddings=True)),
    ("qwen2moe_12x4", 61, None, dict(family="qwen2moe", hidden=96, layers=2, heads=6, kv_heads=6, head_dim=16,
                                     experts=12, experts_per_token=4, ffn=40, shared_ffn=160, rope_base=1000000.0)),
    ("qwen2moe_long", 300, LONG, dict(family="qwen2moe", hidden=64, layers=2, heads=4, kv_heads=1, head_dim=16,
                                      experts=5, experts_per_token=2, ffn=33, shared_ffn=72)),
    ("olmoe_16x3", 58, None, dict(family="olmoe", hidden=96, layers=2, heads=6, kv_heads=6, head_dim=16, experts=16,
                                  experts_per_token=3, ffn=48)),
    ("olmoe_long", 300, LONG, dict(family="olmoe", hidden=80, layers=2, heads=5, kv_heads=1, head_dim=16, experts=6,
                                   experts_per_token=2, ffn=40)),
    # On both sides of the original context, and far beyond it.
    ("phimoe_short", 64, None, dict(family="phimoe", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, experts=16,
                                    experts_per_token=2, ffn=48, original_context=64)),
    ("phimoe_beyond", 65, None, dict(family="phimoe", hidden=96, layers=2, heads=6, kv_heads=2, head_dim=16, experts=16,
                                     experts_per_token=2, ffn=48, original_context=64)),
    ("phimoe_long", 300, LONG, dict(family="phimoe", hidden=64, layers=2, heads=4, kv_heads=1, head_dim=16, experts=6,
                                    experts_per_token=2, ffn=72, original_context=64)),
    # No LongRoPE; of three experts the second is mostly negative.
    ("phimoe_plain", 71, None, dict(family="phimoe", hidden=80, layers=2, heads=5, kv_heads=5, head_dim=16, experts=3,
                                    experts_per_token=2, ffn=40)),
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
    if (original := key("rope.scaling.original_context_length")) is not None:
        rope |= {"rope_type": "longrope", "original_max_position_embeddings": original,
                 "short_mscale": PHIMOE_MSCALE, "long_mscale": PHIMOE_MSCALE,
                 "short_factor": tensors["rope_factors_short.weight"].tolist(),
                 "long_factor": tensors["rope_factors_long.weight"].tolist()}
    common = dict(
        vocab_size=key("vocab_size"), hidden_size=key("embedding_length"), num_hidden_layers=key("block_count"),
        num_attention_heads=key("attention.head_count"), num_key_value_heads=key("attention.head_count_kv"),
        head_dim=key("attention.key_length"), max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"), rope_parameters=rope, hidden_act="silu",
        tie_word_embeddings="output.weight" not in tensors, attn_implementation="eager")
    window = key("attention.sliding_window")
    biased = "blk.0.attn_q.bias" in tensors
    experts = dict(num_experts_per_tok=key("expert_used_count"), experts_implementation="eager")
    if arch == "qwen2":
        return Qwen2ForCausalLM, Qwen2Config(**common, intermediate_size=key("feed_forward_length"))
    if arch == "qwen2moe":
        return Qwen2MoeForCausalLM, Qwen2MoeConfig(
            **common, **experts, num_experts=key("expert_count"),
            moe_intermediate_size=key("expert_feed_forward_length"),
            shared_expert_intermediate_size=key("expert_shared_feed_forward_length"), norm_topk_prob=False,
            decoder_sparse_step=1, mlp_only_layers=[])
    if arch == "olmoe":
        return OlmoeForCausalLM, OlmoeConfig(
            **common, **experts, num_experts=key("expert_count"), intermediate_size=key("feed_forward_length"),
            norm_topk_prob=False)
    if arch == "phimoe":
        return PhimoeForCausalLM, PhimoeConfig(
            **common, **experts, num_local_experts=key("expert_count"), intermediate_size=key("feed_forward_length"),
            attention_bias=True, lm_head_bias=True, router_jitter_noise=PHIMOE_JITTER_EPS, sliding_window=window)
    if arch == "qwen3moe":
        return Qwen3MoeForCausalLM, Qwen3MoeConfig(
            **common, num_experts=key("expert_count"), num_experts_per_tok=key("expert_used_count"),
            moe_intermediate_size=key("expert_feed_forward_length"), norm_topk_prob=True, decoder_sparse_step=1,
            mlp_only_layers=[], experts_implementation="eager")
    if key("expert_count", 0):
        return MixtralForCausalLM, MixtralConfig(
            **common, intermediate_size=key("feed_forward_length"), num_local_experts=key("expert_count"),
            num_experts_per_tok=key("expert_used_count"), sliding_window=window, experts_implementation="eager")
    if window is not None:
        return MistralForCausalLM, MistralConfig(**common, intermediate_size=key("feed_forward_length"),
                                                 sliding_window=window)
    return LlamaForCausalLM, LlamaConfig(
        **common, intermediate_size=key("feed_forward_length"), attention_bias=biased)


def halves(rows, heads):
    """`llama` files hold a head's rows as the pairs (0, 1), (2, 3), … that rotate; transformers rotates (i, i + d/2)."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


def state_dict(config, arch, tensors):
    def norm(target, source):
        return {f"{target}.{kind}": tensors[f"{source}.{kind}"]
                for kind in ("weight", "bias") if f"{source}.{kind}" in tensors}

    paired = halves if arch == "llama" else lambda rows, heads: rows
    state = {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        **norm("model.norm", "output_norm"),
        "lm_head.weight": tensors.get("output.weight", tensors["token_embd.weight"]),
    }
    if "output.bias" in tensors:
        state["lm_head.bias"] = tensors["output.bias"]
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        source, target = f"blk.{layer}.", f"model.layers.{layer}."
        get = lambda name: tensors[source + name]

        def stack(matrix):  # [experts, rows, columns], of one tensor or one an expert
            if source + matrix + "_exps.weight" in tensors:
                return get(matrix + "_exps.weight")
            names = [f"{source}{matrix}.{e}.weight" for e in range(config.num_local_experts)]
            return torch.stack([tensors[name] for name in names])

        for one in "qkv":
            for kind in ("weight", "bias"):
                if (name := f"{source}attn_{one}.{kind}") in tensors:
                    rows = tensors[name]
                    state[f"{target}self_attn.{one}_proj.{kind}"] = paired(rows, heads[one]) if one in heads else rows
        if source + "attn_output.bias" in tensors:
            state[target + "self_attn.o_proj.bias"] = get("attn_output.bias")
        elif getattr(config, "attention_bias", False):  # transformers has one on the output too, such files do not
            state[target + "self_attn.o_proj.bias"] = torch.zeros(config.hidden_size)
        if source + "attn_q_norm.weight" in tensors:
            state[target + "self_attn.q_norm.weight"] = get("attn_q_norm.weight")
            state[target + "self_attn.k_norm.weight"] = get("attn_k_norm.weight")
        state[target + "self_attn.o_proj.weight"] = get("attn_output.weight")
        state |= norm(target + "input_layernorm", source + "attn_norm")
        state |= norm(target + "post_attention_layernorm", source + "ffn_norm")
        if source + "ffn_gate_inp.weight" in tensors:
            router = "router" if arch == "phimoe" else "gate"
            state[f"{target}mlp.{router}.weight"] = get("ffn_gate_inp.weight")
            state[target + "mlp.experts.gate_up_proj"] = torch.cat([stack("ffn_gate"), stack("ffn_up")], dim=1)
            state[target + "mlp.experts.down_proj"] = stack("ffn_down")
            if source + "ffn_gate_inp_shexp.weight" in tensors:
                state[target + "mlp.shared_expert_gate.weight"] = get("ffn_gate_inp_shexp.weight")[None]
                for one in ("gate", "up", "down"):
                    state[f"{target}mlp.shared_expert.{one}_proj.weight"] = get(f"ffn_{one}_shexp.weight")
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


def read_long_factors(model, tokens):
    """transformers 5.23 chooses phimoe's mscale by the length and then asks for frequencies without one, so that
    long_factor is never read. The published modelling code and transformers 4 pass the length on, as here."""
    rotary = model.model.rotary_emb
    if rotary.rope_type == "longrope":
        init = rotary.rope_init_fn
        rotary.rope_init_fn = lambda config: init(config, seq_len=tokens)


def softmax_margin(logits, k):
    """The distance of the k-th probability to the next."""
    top = torch.softmax(logits, -1).sort(-1, descending=True).values
    return (top[:, k - 1] - top[:, k]).min().item() if k < logits.shape[1] else 1.0


def sparsemixer_margin(logits):
    """The distances of the two largest from the next, and of each expert from the edge of being kept."""
    top = logits.sort(-1, descending=True).values
    margins = [(top[:, i] - top[:, i + 1]).min().item() for i in range(2)]
    for first in range(2):
        largest = top[:, first:first + 1]
        apart = (largest - logits) / logits.abs().clamp(min=largest)
        margins.append((apart - 2 * PHIMOE_JITTER_EPS).abs().min().item())
    return min(margins)


def watch_gates(model, margins, chosen):
    """Notes for each layer what its router chose [rows, k], ascending, and how far that is from another choice."""
    def hook(module, _, output):
        logits, _, experts = output
        sparse = isinstance(model, PhimoeForCausalLM)
        margins.append(sparsemixer_margin(logits) if sparse else softmax_margin(logits, module.top_k))
        chosen.append(experts.sort(-1).values.tolist())
    for layer in model.model.layers:
        for name in ("gate", "router"):
            if isinstance(router := getattr(layer.mlp, name, None), torch.nn.Module) and hasattr(router, "top_k"):
                router.register_forward_hook(hook)


def reference(moepool, spec, ids):
    """Logits [ids, vocab] of the model of `spec`, its experts and smallest gate margin (None where dense)."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "model.gguf")
        synthesize(moepool, spec, path)
        model = load(path)
    read_long_factors(model, len(ids))
    margins = []
    chosen = []
    watch_gates(model, margins, chosen)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)[None], use_cache=False).logits[0].numpy()
    return logits, chosen or None, min(margins, default=None)


def write(path, header, logits):
    text = json.dumps(header, separators=(",", ":")).encode()
    with open(path, "wb") as out:
        out.write(b"MPGOLD1\n" + struct.pack("<I", len(text)) + text + logits.astype("<f4").tobytes())


def main():
    moepool = sys.argv[1]
    wanted = sys.argv[2:]  # names; all where none is given
    folder = os.path.join(os.path.dirname(os.path.abspath(__file__)), "families")
    os.makedirs(folder, exist_ok=True)
    for number, (name, tokens, positions, fields) in enumerate(CASES):
        if wanted and name not in wanted:
            continue
        ids = np.random.default_rng(2000 + number).integers(0, VOCAB, tokens)
        # Seeds are tried until no row of the sequence is so near to another choice of experts that rounding decides.
        for seed in itertools.count(1000 * (number + 1)):
            spec = fields | dict(seed=seed)
            logits, experts, margin = reference(moepool, spec, ids)
            if margin is None or margin >= MIN_GATE_MARGIN:
                break
        positions = list(range(tokens)) if positions is None else positions
        header = dict(name=name, spec=spec | dict(vocab=VOCAB), ids=ids.tolist(), positions=positions, vocab=VOCAB,
                      experts=experts, gate_margin=margin)
        write(os.path.join(folder, name + ".bin"), header, logits[positions])
        print(f"{name}: {len(positions)} of {tokens} positions, seed {seed}, logits within {logits.min():.2f} to "
              f"{logits.max():.2f}, gate margin {margin}")


if __name__ == "__main__":
    main()
