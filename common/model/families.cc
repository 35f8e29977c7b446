// See families.h.
#include "common/model/families.h"

#include "common/base/str.h"

namespace moepool {
namespace {

constexpr Family kFamilies[] = {
    // Llama 1 to 3, TinyLlama, SmolLM, Mistral, and with experts Mixtral. llama.cpp has no window here; a
    // file
    // that names one gets it, as in transformers.
    {.name = "llama",
     .rope = RopeKind::kInterleaved,
     .sliding_window = true,
     .dense = true,
     .renormalize = true},
    // Qwen 2 and 2.5, DeepSeek-R1's distills of them.
    {.name = "qwen2", .qkv_bias = true, .dense = true, .experts = false},
    // Qwen1.5-MoE, Qwen2-57B-A14B.
    {.name = "qwen2moe",
     .qkv_bias = true,
     .tied_embeddings = false,
     .expert_ffn_key = "expert_feed_forward_length",
     .shared_expert = true},
    {.name = "qwen3moe",
     .qk_norm = QkNorm::kHead,
     .expert_ffn_key = "expert_feed_forward_length",
     .renormalize = true},
    // OLMoE-1B-7B.
    {.name = "olmoe", .qk_norm = QkNorm::kRow, .tied_embeddings = false},
    // Phi-3.5-MoE as published; transformers is the reference. llama.cpp reads the same files and differs: it
    // norms by the root mean square (and adds the bias), gates by a softmax whose two largest are
    // renormalised, and scales cos and sin by rope.scaling.attn_factor. The mscale (short_mscale and
    // long_mscale
    // of the published configuration, equal) and sparsemixer's epsilon (router_jitter_noise) are in no file.
    {.name = "phimoe",
     .norm = NormKind::kLayer,
     .qkv_bias = true,
     .attn_output_bias = true,
     .output_bias = true,
     .sliding_window = true,
     .tied_embeddings = false,
     .gate = GateKind::kSparseMixer,
     .jitter_eps = 0.01f,
     .longrope_mscale = 1.243163121016122},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

const Family* FindFamily(std::string_view name) {
  for (const Family& family : kFamilies) {
    if (family.name == name) return &family;
  }
  return nullptr;
}

std::string FamilyNames() {
  std::string names;
  for (const Family& family : kFamilies) names += StrCat(names.empty() ? "" : ", ", family.name);
  return names;
}

}  // namespace moepool
