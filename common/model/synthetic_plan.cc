// See synthetic_plan.h. Deviations are chosen so that activations keep their size through the layers and
// logits differ by a few units: about 1 / sqrt(inputs) for a product whose input was normalised.
#include "common/model/synthetic_plan.h"

#include <cmath>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/descriptor.h"
#include "common/model/families.h"

namespace moepool {
namespace {

constexpr float kSpread = 2.0f;       // of output and gate logits
constexpr float kNormSpread = 0.1f;   // of norm weights round 1, and of biases round 0
constexpr float kFreqFactorMean = 4;  // of factors within 1 to 7
constexpr float kFreqFactorDeviation = 1.732f;
constexpr float kShortFactorMean = 1.5f;  // within 1 to 2
constexpr float kShortFactorDeviation = 0.2887f;

uint32_t FileType(const SynthSpec& spec) {  // general.file_type, which llama.cpp prints
  if (spec.dtype == DType::kQ4_K && spec.more_dtype.has_value()) return 15;  // Q4_K_M
  switch (spec.dtype) {
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
    case DType::kMXFP4:
      return 38;
  }
  return 0;
}

absl::Status CheckSpec(const SynthSpec& spec, const Family& family) {
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
      {"experts", spec.experts, family.dense ? 0 : 1, family.experts ? 65536 : 0},
      {"experts_per_token", spec.experts_per_token, dense ? 0 : 1, spec.experts},
      {"ffn", spec.ffn, 1, 1 << 20},
      {"shared_ffn", spec.shared_ffn, family.shared_expert ? 1 : 0, family.shared_expert ? 1 << 20 : 0},
      {"sliding_window", spec.sliding_window, 0, family.sliding_window ? 1 << 30 : 0},
      {"original_context", spec.original_context, 0, family.longrope_mscale > 0 ? 1 << 30 : 0},
      // Of the families here, those whose files rotate neighbours are Llama's.
      {"rope_freqs", spec.rope_freqs, 0, family.rope == RopeKind::kInterleaved},
      {"tied_embeddings", spec.tied_embeddings, 0, family.tied_embeddings},
      {"split_experts", spec.split_experts, 0, !dense},
      {"vocab", spec.vocab, kSynthMinVocab, 1 << 22},
      {"context", spec.context, 1, 1 << 30},
  };
  for (const auto& f : fields) {
    if (f.value < f.low || f.value > f.high) {
      return absl::InvalidArgumentError(StrCat(f.field, " is ", f.value, ", expected within ", f.low, " to ",
                                               f.high, " for family '", family.name, "'"));
    }
  }
  return absl::OkStatus();
}

// LongRoPE's attn_factor as converters compute it, which llama.cpp applies and moepool does not.
float AttnFactor(const SynthSpec& spec) {
  const double scale = static_cast<double>(spec.context) / spec.original_context;
  return scale <= 1 ? 1.0f
                    : static_cast<float>(std::sqrt(1 + std::log(scale) / std::log(spec.original_context)));
}

void AddMetadata(const SynthSpec& spec, const Family& family, GgufHeader* header) {
  const auto key = [&](std::string_view suffix) { return StrCat(spec.family, ".", suffix); };
  const auto add = [&](std::string_view suffix, int value) {
    header->AddU32(key(suffix), static_cast<uint32_t>(value));
  };
  header->AddString("general.architecture", spec.family);
  header->AddString("general.type", "model");
  header->AddString("general.name", spec.name);
  header->AddU32("general.file_type", FileType(spec));
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
    if (family.expert_ffn_key != "feed_forward_length") add(family.expert_ffn_key, spec.ffn);
    if (family.shared_expert) add("expert_shared_feed_forward_length", spec.shared_ffn);
  }
  if (spec.sliding_window > 0) add("attention.sliding_window", spec.sliding_window);
  if (spec.original_context > 0) {
    add("rope.scaling.original_context_length", spec.original_context);
    header->AddF32(key("rope.scaling.attn_factor"), AttnFactor(spec));
  }
  AddSynthTokenizer(spec.vocab, header);
}

class TensorList {
 public:
  TensorList(const SynthSpec& spec, SynthPlan* plan) : spec_(spec), plan_(plan) {}

  void Vector(std::string name, int64_t size, float mean, float deviation) {
    Add(std::move(name), DType::kF32, 1, {size, 1, 1, 1}, mean, deviation);
  }
  void F32Matrix(std::string name, int64_t cols, int64_t rows, float deviation) {
    Add(std::move(name), DType::kF32, 2, {cols, rows, 1, 1}, 0, deviation);
  }
  // `more`: of spec.more_dtype, where there is one.
  void Matrix(std::string name, int64_t cols, int64_t rows, float deviation, bool more = false) {
    Add(std::move(name), TypeFor(cols, more), 2, {cols, rows, 1, 1}, 0, deviation);
  }
  // All of a layer's.  `matrix`: blk.N.ffn_gate, ffn_up or ffn_down.
  void Experts(const std::string& matrix, int64_t cols, int64_t rows, float deviation, bool more = false) {
    if (!spec_.split_experts) {
      Add(matrix + "_exps.weight", TypeFor(cols, more), 3, {cols, rows, spec_.experts, 1}, 0, deviation);
      return;
    }
    for (int e = 0; e < spec_.experts; ++e) {
      Matrix(StrCat(matrix, ".", e, ".weight"), cols, rows, deviation, more);
    }
  }
  void Norm(const std::string& name, int64_t size, bool bias) {
    Vector(name + ".weight", size, 1, kNormSpread);
    if (bias) Vector(name + ".bias", size, 0, kNormSpread);
  }

 private:
  DType TypeFor(int64_t cols, bool more) const {
    const DType dtype = more ? spec_.more_dtype.value_or(spec_.dtype) : spec_.dtype;
    if (cols % Info(dtype).block_cols == 0) return dtype;
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

  const SynthSpec& spec_;
  SynthPlan* const plan_;
};

float PerInput(int64_t inputs) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(inputs))); }

// The layers to which llama.cpp's mixed types give more bits: the first and last eighth, and each third
// between.
bool MoreBits(int layer, int layers) {
  return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

void AddAttention(const SynthSpec& spec, const Family& family, const std::string& prefix, bool more,
                  TensorList* out) {
  const int64_t q = int64_t{spec.heads} * spec.head_dim;
  const int64_t kv = int64_t{spec.kv_heads} * spec.head_dim;
  const float from_hidden = PerInput(spec.hidden);
  out->Norm(prefix + "attn_norm", spec.hidden, family.norm == NormKind::kLayer);
  out->Matrix(prefix + "attn_q.weight", spec.hidden, q, from_hidden);
  out->Matrix(prefix + "attn_k.weight", spec.hidden, kv, from_hidden);
  out->Matrix(prefix + "attn_v.weight", spec.hidden, kv, from_hidden, more);
  if (family.qkv_bias || spec.qkv_bias) {
    out->Vector(prefix + "attn_q.bias", q, 0, kNormSpread);
    out->Vector(prefix + "attn_k.bias", kv, 0, kNormSpread);
    out->Vector(prefix + "attn_v.bias", kv, 0, kNormSpread);
  }
  if (family.qk_norm != QkNorm::kNone) {
    const bool row = family.qk_norm == QkNorm::kRow;
    out->Vector(prefix + "attn_q_norm.weight", row ? q : spec.head_dim, 1, kNormSpread);
    out->Vector(prefix + "attn_k_norm.weight", row ? kv : spec.head_dim, 1, kNormSpread);
  }
  out->Matrix(prefix + "attn_output.weight", q, spec.hidden, PerInput(q));
  if (family.attn_output_bias) out->Vector(prefix + "attn_output.bias", spec.hidden, 0, kNormSpread);
}

void AddFfn(const SynthSpec& spec, const Family& family, const std::string& prefix, bool more,
            TensorList* out) {
  const float from_hidden = PerInput(spec.hidden);
  out->Norm(prefix + "ffn_norm", spec.hidden, family.norm == NormKind::kLayer);
  if (spec.experts == 0) {
    out->Matrix(prefix + "ffn_gate.weight", spec.hidden, spec.ffn, from_hidden);
    out->Matrix(prefix + "ffn_up.weight", spec.hidden, spec.ffn, from_hidden);
    out->Matrix(prefix + "ffn_down.weight", spec.ffn, spec.hidden, PerInput(spec.ffn), more);
    return;
  }
  out->F32Matrix(prefix + "ffn_gate_inp.weight", spec.hidden, spec.experts, kSpread * from_hidden);
  out->Experts(prefix + "ffn_gate", spec.hidden, spec.ffn, from_hidden);
  out->Experts(prefix + "ffn_up", spec.hidden, spec.ffn, from_hidden);
  out->Experts(prefix + "ffn_down", spec.ffn, spec.hidden, PerInput(spec.ffn), more);
  if (!family.shared_expert) return;
  out->Vector(prefix + "ffn_gate_inp_shexp.weight", spec.hidden, 0, kSpread * from_hidden);
  out->Matrix(prefix + "ffn_gate_shexp.weight", spec.hidden, spec.shared_ffn, from_hidden);
  out->Matrix(prefix + "ffn_up_shexp.weight", spec.hidden, spec.shared_ffn, from_hidden);
  out->Matrix(prefix + "ffn_down_shexp.weight", spec.shared_ffn, spec.hidden, PerInput(spec.shared_ffn),
              more);
}

}  // namespace

absl::StatusOr<SynthPlan> PlanSynthetic(const SynthSpec& spec) {
  const Family* family = FindFamily(spec.family);
  if (family == nullptr) {
    return absl::InvalidArgumentError(
        StrCat("family is '", spec.family, "', expected one of ", FamilyNames()));
  }
  MOEPOOL_RETURN_IF_ERROR(CheckSpec(spec, *family));
  SynthPlan plan;
  AddMetadata(spec, *family, &plan.header);
  TensorList out(spec, &plan);
  const float logits = kSpread * PerInput(spec.hidden);
  out.Matrix("token_embd.weight", spec.hidden, spec.vocab, spec.tied_embeddings ? logits : 1.0f,
             spec.tied_embeddings);
  out.Norm("output_norm", spec.hidden, family->norm == NormKind::kLayer);
  if (!spec.tied_embeddings) out.Matrix("output.weight", spec.hidden, spec.vocab, logits, true);
  if (family->output_bias) out.Vector("output.bias", spec.vocab, 0, kNormSpread);
  const int64_t pairs = spec.head_dim / 2;
  if (spec.rope_freqs) {
    out.Vector(std::string(kRopeFreqsTensor), pairs, kFreqFactorMean, kFreqFactorDeviation);
  }
  if (spec.original_context > 0) {
    out.Vector(std::string(kRopeLongTensor), pairs, kFreqFactorMean, kFreqFactorDeviation);
    out.Vector(std::string(kRopeShortTensor), pairs, kShortFactorMean, kShortFactorDeviation);
  }
  for (int layer = 0; layer < spec.layers; ++layer) {
    const std::string prefix = StrCat("blk.", layer, ".");
    const bool more = MoreBits(layer, spec.layers);
    AddAttention(spec, *family, prefix, more, &out);
    AddFfn(spec, *family, prefix, more, &out);
  }
  return plan;
}

}  // namespace moepool
