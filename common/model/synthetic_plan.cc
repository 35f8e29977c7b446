// See synthetic_plan.h. Deviations are chosen so that activations keep their size through the layers and
// logits differ by a few units: about 1 / sqrt(inputs) for a product whose input was normalised.
#include "common/model/synthetic_plan.h"

#include <cmath>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

constexpr float kSpread = 2.0f;       // of output and gate logits
constexpr float kNormSpread = 0.1f;   // of norm weights round 1, and of biases round 0
constexpr float kFreqFactorMean = 4;  // of factors within 1 to 7
constexpr float kFreqFactorDeviation = 1.732f;

uint32_t FileType(DType dtype) {  // general.file_type, which llama.cpp prints
  switch (dtype) {
    case DType::kF32:
      return 0;
    case DType::kF16:
      return 1;
    case DType::kQ4_0:
      return 2;
    case DType::kQ4_1:
      return 3;
    case DType::kQ8_0:
      return 7;
    case DType::kQ5_0:
      return 8;
    case DType::kQ5_1:
      return 9;
    case DType::kQ2_K:
      return 10;
    case DType::kQ3_K:
      return 11;
    case DType::kQ4_K:
      return 14;
    case DType::kQ5_K:
      return 16;
    case DType::kQ6_K:
      return 18;
    case DType::kIQ4_NL:
      return 25;
    case DType::kBF16:
      return 32;
  }
  return 0;
}

absl::Status CheckSpec(const SynthSpec& spec) {
  const bool dense = spec.experts == 0;
  const struct {
    std::string_view field;
    int64_t value;
    int64_t low;
    int64_t high;
  } fields[] = {
      {"hidden", spec.hidden, 2, 1 << 17},
      {"layers", spec.layers, 1, 1024},
      {"heads", spec.heads, 1, 4096},
      {"kv_heads", spec.kv_heads, 1, spec.heads},
      {"head_dim", spec.head_dim, 2, 512},
      {"experts", spec.experts, 0, 65536},
      {"experts_per_token", spec.experts_per_token, dense ? 0 : 1, spec.experts},
      {"ffn", spec.ffn, 1, 1 << 20},
      {"vocab", spec.vocab, kSynthMinVocab, 1 << 22},
      {"context", spec.context, 1, 1 << 30},
  };
  for (const auto& f : fields) {
    if (f.value < f.low || f.value > f.high) {
      return absl::InvalidArgumentError(
          StrCat(f.field, " is ", f.value, ", expected within ", f.low, " to ", f.high));
    }
  }
  if (spec.family != "llama" && spec.family != "qwen3moe") {
    return absl::InvalidArgumentError(StrCat("family is '", spec.family, "', expected llama or qwen3moe"));
  }
  if (spec.family != "llama" && (dense || spec.qkv_bias || spec.rope_freqs)) {
    return absl::InvalidArgumentError(
        StrCat("family ", spec.family, " has experts, no qkv_bias and no rope_freqs"));
  }
  return absl::OkStatus();
}

void AddMetadata(const SynthSpec& spec, GgufHeader* header) {
  const auto key = [&](std::string_view suffix) { return StrCat(spec.family, ".", suffix); };
  const auto add = [&](std::string_view suffix, int value) {
    header->AddU32(key(suffix), static_cast<uint32_t>(value));
  };
  header->AddString("general.architecture", spec.family);
  header->AddString("general.type", "model");
  header->AddString("general.name", spec.name);
  header->AddU32("general.file_type", FileType(spec.dtype));
  header->AddU32("general.quantization_version", 2);
  add("block_count", spec.layers);
  add("context_length", spec.context);
  add("embedding_length", spec.hidden);
  add("feed_forward_length", spec.ffn);
  add("attention.head_count", spec.heads);
  add("attention.head_count_kv", spec.kv_heads);
  add("attention.key_length", spec.head_dim);
  add("attention.value_length", spec.head_dim);
  add("rope.dimension_count", spec.head_dim);
  add("vocab_size", spec.vocab);
  header->AddF32(key("attention.layer_norm_rms_epsilon"), 1e-5f);
  header->AddF32(key("rope.freq_base"), static_cast<float>(spec.rope_base));
  if (spec.rope_linear_factor != 1.0) {
    header->AddString(key("rope.scaling.type"), "linear");
    header->AddF32(key("rope.scaling.factor"), static_cast<float>(spec.rope_linear_factor));
  }
  if (spec.experts > 0) {
    add("expert_count", spec.experts);
    add("expert_used_count", spec.experts_per_token);
    if (spec.family == "qwen3moe") add("expert_feed_forward_length", spec.ffn);
  }
  AddSynthTokenizer(spec.vocab, header);
}

class TensorList {
 public:
  TensorList(DType dtype, SynthPlan* plan) : dtype_(dtype), plan_(plan) {}

  void Vector(std::string name, int64_t size, float mean, float deviation) {
    Add(std::move(name), DType::kF32, 1, {size, 1, 1, 1}, mean, deviation);
  }
  void F32Matrix(std::string name, int64_t cols, int64_t rows, float deviation) {
    Add(std::move(name), DType::kF32, 2, {cols, rows, 1, 1}, 0, deviation);
  }
  void Matrix(std::string name, int64_t cols, int64_t rows, float deviation) {
    Add(std::move(name), TypeFor(cols), 2, {cols, rows, 1, 1}, 0, deviation);
  }
  void Experts(std::string name, int64_t cols, int64_t rows, int64_t experts, float deviation) {
    Add(std::move(name), TypeFor(cols), 3, {cols, rows, experts, 1}, 0, deviation);
  }

 private:
  DType TypeFor(int64_t cols) const {
    if (cols % Info(dtype_).block_cols == 0) return dtype_;
    return cols % 32 == 0 ? DType::kQ8_0 : DType::kF16;
  }
  void Add(std::string name, DType dtype, int n_dims, std::array<int64_t, 4> dims, float mean,
           float deviation) {
    TensorInfo info{std::move(name), dtype, n_dims, dims, 0};
    // Within 2^63 by the limits of CheckSpec.
    info.bytes = static_cast<uint64_t>(RowBytes(dtype, dims[0]) * dims[1] * dims[2]);
    plan_->header.AddTensor(info);
    plan_->tensors.push_back({std::move(info), mean, deviation});
  }

  const DType dtype_;
  SynthPlan* const plan_;
};

float PerInput(int64_t inputs) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(inputs))); }

void AddLayer(const SynthSpec& spec, int layer, TensorList* out) {
  const auto name = [&](std::string_view suffix) { return StrCat("blk.", layer, ".", suffix); };
  const int64_t q = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv = int64_t{spec.kv_heads} * spec.head_dim;
  const float from_hidden = PerInput(spec.hidden);
  out->Vector(name("attn_norm.weight"), spec.hidden, 1, kNormSpread);
  out->Matrix(name("attn_q.weight"), spec.hidden, q, from_hidden);
  out->Matrix(name("attn_k.weight"), spec.hidden, kv, from_hidden);
  out->Matrix(name("attn_v.weight"), spec.hidden, kv, from_hidden);
  if (spec.qkv_bias) {
    out->Vector(name("attn_q.bias"), q, 0, kNormSpread);
    out->Vector(name("attn_k.bias"), kv, 0, kNormSpread);
    out->Vector(name("attn_v.bias"), kv, 0, kNormSpread);
  }
  if (spec.family == "qwen3moe") {
    out->Vector(name("attn_q_norm.weight"), spec.head_dim, 1, kNormSpread);
    out->Vector(name("attn_k_norm.weight"), spec.head_dim, 1, kNormSpread);
  }
  out->Matrix(name("attn_output.weight"), q, spec.hidden, PerInput(q));
  out->Vector(name("ffn_norm.weight"), spec.hidden, 1, kNormSpread);
  if (spec.experts == 0) {
    out->Matrix(name("ffn_gate.weight"), spec.hidden, spec.ffn, from_hidden);
    out->Matrix(name("ffn_up.weight"), spec.hidden, spec.ffn, from_hidden);
    out->Matrix(name("ffn_down.weight"), spec.ffn, spec.hidden, PerInput(spec.ffn));
    return;
  }
  out->F32Matrix(name("ffn_gate_inp.weight"), spec.hidden, spec.experts, kSpread * from_hidden);
  out->Experts(name("ffn_gate_exps.weight"), spec.hidden, spec.ffn, spec.experts, from_hidden);
  out->Experts(name("ffn_up_exps.weight"), spec.hidden, spec.ffn, spec.experts, from_hidden);
  out->Experts(name("ffn_down_exps.weight"), spec.ffn, spec.hidden, spec.experts, PerInput(spec.ffn));
}

}  // namespace

absl::StatusOr<SynthPlan> PlanSynthetic(const SynthSpec& spec) {
  MOEPOOL_RETURN_IF_ERROR(CheckSpec(spec));
  SynthPlan plan;
  AddMetadata(spec, &plan.header);
  TensorList out(spec.dtype, &plan);
  const float logits = kSpread * PerInput(spec.hidden);
  out.Matrix("token_embd.weight", spec.hidden, spec.vocab, spec.tied_embeddings ? logits : 1.0f);
  out.Vector("output_norm.weight", spec.hidden, 1, kNormSpread);
  if (!spec.tied_embeddings) out.Matrix("output.weight", spec.hidden, spec.vocab, logits);
  if (spec.rope_freqs)
    out.Vector("rope_freqs.weight", spec.head_dim / 2, kFreqFactorMean, kFreqFactorDeviation);
  for (int layer = 0; layer < spec.layers; ++layer) AddLayer(spec, layer, &out);
  return plan;
}

}  // namespace moepool
