// The descriptor: what the engine must know of a model, whatever file it came from. A family differs from
// another by the values here and never by code of its own. Filled and range-checked by a ModelSource.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moepool {

enum class NormKind : uint8_t { kRms, kLayer };
enum class Activation : uint8_t { kSilu };  // h = act(gate) * up
enum class RopeKind : uint8_t {
  kInterleaved,  // pairs (2i, 2i+1): `llama` files
  kNeox,         // pairs (i, i + dims/2)
};

enum class GateKind : uint8_t {
  kDense,        // every expert slice, weight 1
  kSoftmax,      // softmax over all experts, then top-k
  kSigmoid,      // the k largest, each weighted by the sigmoid of its logit
  kSparseMixer,  // two experts, each weighted by a softmax over those that come near it
};

enum class QkNorm : uint8_t {
  kNone,
  kHead,  // RMS norm of each head of q and k by itself, one weight [head_dim] for all
  kRow,   // RMS norm of all heads of q (of k) as one row, weights [heads * head_dim]
};

struct GateConfig {
  GateKind kind = GateKind::kDense;
  bool renormalize = false;  // weights of the chosen k divided by their sum
  float scale = 1.0f;
  float jitter_eps = 0;  // sparsemixer keeps experts within 2 * jitter_eps of the largest, relatively
};

struct RopeConfig {
  RopeKind kind = RopeKind::kInterleaved;
  int dims = 0;  // leading dimensions of a head that rotate
  double base = 10000.0;
  double linear_factor = 1.0;       // positions divided by it
  std::vector<float> freq_factors;  // dims/2 divisors of the frequencies, or empty (Llama 3's rope_freqs)
  // LongRoPE: divisors for sequences that may reach beyond original_context_tokens (freq_factors are then for
  // the others), and what cos and sin are multiplied by.
  std::vector<float> long_factors;
  int original_context_tokens = 0;
  double mscale = 1.0;
  double long_mscale = 1.0;
};

// The rotation of one sequence, decided once, at admission (RopeSetFor): it is part of what its keys mean.
enum class RopeSet : uint8_t { kShort = 0, kLong = 1 };

// `reach_tokens`: prompt and max_tokens.
inline RopeSet RopeSetFor(const RopeConfig& rope, int64_t reach_tokens) {
  return !rope.long_factors.empty() && reach_tokens > rope.original_context_tokens ? RopeSet::kLong
                                                                                   : RopeSet::kShort;
}

struct ModelConfig {
  std::string family;  // "llama", "qwen3moe": a row of families.h
  std::string name;    // general.name, or the file's stem
  int vocab_size = 0;
  int hidden = 0;
  int layers = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;        // of q, k and v
  int context_tokens = 0;  // the model's own limit
  NormKind norm = NormKind::kRms;
  float norm_eps = 1e-5f;
  bool norm_bias = false;
  bool qkv_bias = false;
  bool attn_output_bias = false;
  bool output_bias = false;        // of the LM head
  QkNorm qk_norm = QkNorm::kNone;  // before the rotation
  int sliding_window = 0;          // a position sees itself and the window - 1 before it; 0: all before it
  bool tied_embeddings = false;
  RopeConfig rope;
  Activation activation = Activation::kSilu;
  GateConfig gate;
  int experts = 0;            // a layer; kDenseSlices where the model is dense
  int experts_per_token = 0;  // = experts where the model is dense
  int ffn = 0;                // intermediate size of one expert; of the whole FFN where the model is dense
  int shared_ffn = 0;         // of the expert that every token takes besides, on the trunk; 0: none
  bool shared_gated = false;  // its output is multiplied by sigmoid(x . g), by 1 otherwise

  bool dense() const { return gate.kind == GateKind::kDense; }
};

// A dense FFN is served as this many expert slices.
inline constexpr int kDenseSlices = 16;

// Columns [begin, end) of the intermediate dimension that slice s of a dense FFN of size `ffn` holds: blocks
// floor(s*N/16) to floor((s+1)*N/16) of N = ceil(ffn/32). May be empty; the last may be short.
struct SliceRange {
  int begin = 0;
  int end = 0;
};
constexpr SliceRange DenseSlice(int ffn, int s) {
  const int64_t blocks = (ffn + 31) / 32;
  const auto edge = [&](int64_t i) {
    const int64_t column = i * blocks / kDenseSlices * 32;
    return static_cast<int>(column < ffn ? column : ffn);
  };
  return {edge(s), edge(s + 1)};
}

// Intermediate size of expert e: `ffn`, or the slice's share of it.
inline int ExpertFfn(const ModelConfig& config, int expert) {
  if (!config.dense()) return config.ffn;
  const SliceRange r = DenseSlice(config.ffn, expert);
  return r.end - r.begin;
}

}  // namespace moepool
