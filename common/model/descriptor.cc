// See descriptor.h. Keys and tensor names are those of llama.cpp's files.
#include "common/model/descriptor.h"

#include <cmath>
#include <limits>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/utf8.h"
#include "common/model/families.h"

namespace moepool {
namespace {

// Options that no family built in here has: each key must be absent or hold a value that changes nothing.
struct NeutralKey {
  std::string_view suffix;
  double neutral;
  double also_neutral;
};
constexpr NeutralKey kNeutralKeys[] = {
    {"expert_group_count", 0, 1},
    {"leading_dense_block_count", 0, 0},
    {"attention.scale", 0, 0},
    {"attention.clamp_kqv", 0, 0},
    {"attention.sliding_window_pattern", 0, 0},  // 0: every layer
    {"logit_scale", 0, 1},
    {"residual_scale", 0, 1},
    {"embedding_scale", 0, 1},
};

constexpr int64_t kMaxHidden = 1 << 20;
constexpr int64_t kMaxFfn = 1 << 24;
constexpr int64_t kMaxVocab = 1 << 24;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 4096;
constexpr int64_t kMaxHeadDim = 512;
constexpr int64_t kMaxExperts = 65536;
constexpr int64_t kMaxContext = int64_t{1} << 30;
constexpr double kMaxAngle = 0x1p30;  // radians that SinCos takes
constexpr double kMaxExpertWeightsScale = 1e6;

// Reads hyperparameters of one architecture: `suffix` follows "<architecture>.".
class Reader {
 public:
  Reader(const GgufMetadata& metadata, std::string_view architecture)
      : metadata_(metadata), prefix_(StrCat(architecture, ".")) {}

  std::string Key(std::string_view suffix) const { return StrCat(prefix_, suffix); }
  bool Has(std::string_view suffix) const { return metadata_.Has(Key(suffix)); }

  // A missing key is InvalidArgument: the file is no model of this family.
  absl::StatusOr<int> Int(std::string_view suffix, int64_t low, int64_t high) const {
    absl::StatusOr<int64_t> value = metadata_.Int(Key(suffix));
    if (absl::IsNotFound(value.status())) return absl::InvalidArgumentError(value.status().message());
    MOEPOOL_RETURN_IF_ERROR(value.status());
    return InRange(suffix, *value, low, high);
  }
  absl::StatusOr<int> IntOr(std::string_view suffix, int64_t absent, int64_t low, int64_t high) const {
    MOEPOOL_ASSIGN_OR_RETURN(const int64_t value, metadata_.IntOr(Key(suffix), absent));
    return InRange(suffix, value, low, high);
  }
  // Positive and finite.
  absl::StatusOr<double> PositiveOr(std::string_view suffix, double absent) const {
    MOEPOOL_ASSIGN_OR_RETURN(const double value, metadata_.FloatOr(Key(suffix), absent));
    if (!(value > 0) || !std::isfinite(value)) return Bad(suffix, value, "positive and finite");
    return value;
  }
  absl::Status Bad(std::string_view suffix, double value, std::string_view expected) const {
    return absl::InvalidArgumentError(
        StrCat("key ", Quoted(Key(suffix)), " is ", value, ", expected ", expected));
  }
  absl::Status Unsupported(std::string_view suffix, std::string_view value, std::string_view expected) const {
    return absl::UnimplementedError(StrCat("key ", Quoted(Key(suffix)), " is ", value, ", not ", expected));
  }
  absl::Status CheckNeutral(const NeutralKey& key) const {
    const GgufValue* value = metadata_.Find(Key(key.suffix));
    if (value == nullptr) return absl::OkStatus();
    double number = std::numeric_limits<double>::quiet_NaN();
    if (const auto* u = std::get_if<uint64_t>(&value->value)) number = static_cast<double>(*u);
    if (const auto* i = std::get_if<int64_t>(&value->value)) number = static_cast<double>(*i);
    if (const auto* f = std::get_if<double>(&value->value)) number = *f;
    if (number == key.neutral || number == key.also_neutral) return absl::OkStatus();
    return absl::UnimplementedError(StrCat("key ", Quoted(Key(key.suffix)), " is ", Render(*value), "; only ",
                                           key.also_neutral, " is built in"));
  }
  const GgufMetadata& metadata() const { return metadata_; }

 private:
  absl::StatusOr<int> InRange(std::string_view suffix, int64_t value, int64_t low, int64_t high) const {
    if (value >= low && value <= high) return static_cast<int>(value);
    return absl::InvalidArgumentError(
        StrCat("key ", Quoted(Key(suffix)), " is ", value, ", expected within ", low, " to ", high));
  }

  const GgufMetadata& metadata_;
  const std::string prefix_;
};

absl::StatusOr<const Family*> ReadFamily(const GgufMetadata& metadata) {
  absl::StatusOr<std::string> architecture = metadata.String("general.architecture");
  if (absl::IsNotFound(architecture.status()))
    return absl::InvalidArgumentError(architecture.status().message());
  MOEPOOL_RETURN_IF_ERROR(architecture.status());
  const Family* family = FindFamily(*architecture);
  if (family != nullptr) return family;
  return absl::UnimplementedError(
      StrCat("architecture ", Quoted(*architecture), " is not one of ", FamilyNames()));
}

absl::Status ReadAttention(const Reader& in, const Family& family, ModelConfig* config) {
  MOEPOOL_ASSIGN_OR_RETURN(config->heads, in.Int("attention.head_count", 1, kMaxHeads));
  MOEPOOL_ASSIGN_OR_RETURN(config->kv_heads,
                           in.IntOr("attention.head_count_kv", config->heads, 1, config->heads));
  if (config->heads % config->kv_heads != 0) {
    return in.Bad("attention.head_count_kv", config->kv_heads,
                  StrCat("a divisor of the ", config->heads, " heads"));
  }
  if (!in.Has("attention.key_length") && config->hidden % config->heads != 0) {
    return in.Bad("attention.head_count", config->heads,
                  StrCat("a divisor of the hidden size ", config->hidden));
  }
  MOEPOOL_ASSIGN_OR_RETURN(config->head_dim,
                           in.IntOr("attention.key_length", config->hidden / config->heads, 2, kMaxHeadDim));
  if (config->head_dim % 2 != 0) return in.Bad("attention.key_length", config->head_dim, "an even head size");
  MOEPOOL_ASSIGN_OR_RETURN(const int value_length,
                           in.IntOr("attention.value_length", config->head_dim, 1, kMaxHeadDim));
  if (value_length != config->head_dim) {
    return in.Bad("attention.value_length", value_length, StrCat("the key length ", config->head_dim));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const int window, in.IntOr("attention.sliding_window", 0, 0, kMaxContext));
  if (window == 0 || window >= config->context_tokens) return absl::OkStatus();  // hides nothing
  if (!family.sliding_window) {
    return absl::UnimplementedError(StrCat("key ", Quoted(in.Key("attention.sliding_window")), " is ", window,
                                           ", under the context of ", config->context_tokens, "; family '",
                                           family.name, "' is built in without windows"));
  }
  config->sliding_window = window;
  return absl::OkStatus();
}

// LongRoPE: two sets of factors, and what cos and sin are multiplied by, from the family (families.h). The
// file's rope.scaling.attn_factor, sqrt(1 + ln(context / original) / ln(original)), is llama.cpp's stand-in
// for it, 1.19 where the model was trained with 1.243, and is left unread.
absl::Status ReadLongRope(const Reader& in, const Family& family, ModelConfig* config) {
  RopeConfig& rope = config->rope;
  MOEPOOL_ASSIGN_OR_RETURN(const std::string type,
                           in.metadata().StringOr(in.Key("rope.scaling.type"), "longrope"));
  if (type != "longrope") {
    return in.Unsupported("rope.scaling.type", Quoted(type), "longrope, whose factors the file has");
  }
  MOEPOOL_ASSIGN_OR_RETURN(rope.original_context_tokens,
                           in.Int("rope.scaling.original_context_length", 1, kMaxContext));
  rope.mscale = rope.long_mscale = family.longrope_mscale;
  return absl::OkStatus();
}

absl::Status ReadRope(const Reader& in, const Family& family, const TensorTable& tensors,
                      ModelConfig* config) {
  RopeConfig& rope = config->rope;
  MOEPOOL_ASSIGN_OR_RETURN(rope.dims,
                           in.IntOr("rope.dimension_count", config->head_dim, 2, config->head_dim));
  if (rope.dims % 2 != 0) return in.Bad("rope.dimension_count", rope.dims, "an even number");
  MOEPOOL_ASSIGN_OR_RETURN(rope.base, in.PositiveOr("rope.freq_base", 10000.0));
  if (rope.base < 1) return in.Bad("rope.freq_base", rope.base, "at least 1");
  rope.kind = family.rope;
  const bool has_factors =
      tensors.Find(kRopeShortTensor) != nullptr || tensors.Find(kRopeLongTensor) != nullptr;
  if (has_factors && family.longrope_mscale > 0) return ReadLongRope(in, family, config);
  MOEPOOL_RETURN_IF_ERROR(in.CheckNeutral({"rope.scaling.attn_factor", 0, 1}));
  MOEPOOL_ASSIGN_OR_RETURN(const std::string type,
                           in.metadata().StringOr(in.Key("rope.scaling.type"), "linear"));
  if (type != "linear" && type != "none") {
    return in.Unsupported("rope.scaling.type", Quoted(type), "one of none, linear");
  }
  if (type == "none") return absl::OkStatus();
  const bool old_key = !in.Has("rope.scaling.factor") && in.Has("rope.scale_linear");
  const std::string_view suffix = old_key ? "rope.scale_linear" : "rope.scaling.factor";
  MOEPOOL_ASSIGN_OR_RETURN(const double factor, in.metadata().FloatOr(in.Key(suffix), 1.0));
  if (factor == 0) return absl::OkStatus();  // writers put 0 for "none"
  MOEPOOL_ASSIGN_OR_RETURN(rope.linear_factor, in.PositiveOr(suffix, 1.0));
  if (config->context_tokens / rope.linear_factor > kMaxAngle) {
    return in.Bad(suffix, rope.linear_factor,
                  StrCat("at least ", config->context_tokens / kMaxAngle, " with this context"));
  }
  return absl::OkStatus();
}

absl::Status ReadFfn(const Reader& in, const Family& family, ModelConfig* config) {
  MOEPOOL_ASSIGN_OR_RETURN(
      const int experts, in.IntOr("expert_count", 0, family.dense ? 0 : 1, family.experts ? kMaxExperts : 0));
  if (experts == 0) {
    config->gate.kind = GateKind::kDense;
    config->experts = config->experts_per_token = kDenseSlices;
    MOEPOOL_ASSIGN_OR_RETURN(config->ffn, in.Int("feed_forward_length", 1, kMaxFfn));
    return absl::OkStatus();
  }
  config->experts = experts;
  config->gate.kind = family.gate;
  config->gate.jitter_eps = family.jitter_eps;
  const bool sparsemixer = family.gate == GateKind::kSparseMixer;
  // 1: softmax. Files of a sparsemixer say so too, or nothing: they have no number for it.
  MOEPOOL_RETURN_IF_ERROR(
      in.CheckNeutral({"expert_gating_func", 0, family.gate == GateKind::kSigmoid ? 2.0 : 1.0}));
  MOEPOOL_RETURN_IF_ERROR(in.CheckNeutral({"expert_shared_count", 0, family.shared_expert ? 1.0 : 0.0}));
  MOEPOOL_ASSIGN_OR_RETURN(config->experts_per_token,
                           in.Int("expert_used_count", sparsemixer ? 2 : 1, sparsemixer ? 2 : experts));
  MOEPOOL_ASSIGN_OR_RETURN(config->ffn, in.Int(family.expert_ffn_key, 1, kMaxFfn));
  MOEPOOL_ASSIGN_OR_RETURN(config->gate.renormalize,
                           in.metadata().BoolOr(in.Key("expert_weights_norm"), family.renormalize));
  MOEPOOL_ASSIGN_OR_RETURN(const double scale, in.PositiveOr("expert_weights_scale", 1.0));
  if (scale > kMaxExpertWeightsScale) {
    return in.Bad("expert_weights_scale", scale, StrCat("at most ", kMaxExpertWeightsScale));
  }
  config->gate.scale = static_cast<float>(scale);
  if (sparsemixer && config->gate.renormalize) {
    return in.Unsupported("expert_weights_norm", "true", "false, as a sparsemixer's weights are");
  }
  if (sparsemixer) MOEPOOL_RETURN_IF_ERROR(in.CheckNeutral({"expert_weights_scale", 1, 1}));
  if (!family.shared_expert) return absl::OkStatus();
  config->shared_gated = true;
  // Files older than the key give the shared expert's size as the FFN's.
  const std::string_view shared_key = "expert_shared_feed_forward_length";
  MOEPOOL_ASSIGN_OR_RETURN(config->shared_ffn,
                           in.Int(in.Has(shared_key) ? shared_key : "feed_forward_length", 1, kMaxFfn));
  return absl::OkStatus();
}

absl::Status ReadVocabulary(const Reader& in, const Family& family, const TensorTable& tensors,
                            ModelConfig* config) {
  const TensorInfo* embedding = tensors.Find("token_embd.weight");
  if (embedding == nullptr) return absl::InvalidArgumentError("tensor 'token_embd.weight' is missing");
  const int64_t rows = embedding->dims[1];
  if (rows > kMaxVocab) {
    return absl::InvalidArgumentError(
        StrCat("tensor 'token_embd.weight' has ", rows, " rows, more than ", kMaxVocab));
  }
  MOEPOOL_ASSIGN_OR_RETURN(config->vocab_size, in.IntOr("vocab_size", rows, 1, kMaxVocab));
  config->tied_embeddings = family.tied_embeddings && tensors.Find("output.weight") == nullptr;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelConfig> DescribeModel(const GgufMetadata& metadata, const TensorTable& tensors,
                                          std::string_view fallback_name) {
  MOEPOOL_ASSIGN_OR_RETURN(const Family* family, ReadFamily(metadata));
  const Reader in(metadata, family->name);
  ModelConfig config;
  config.family = std::string(family->name);
  MOEPOOL_ASSIGN_OR_RETURN(config.name, metadata.StringOr("general.name", fallback_name));
  if (!IsUtf8(config.name)) config.name = Quoted(fallback_name);  // a file may be called anything
  for (const NeutralKey& key : kNeutralKeys) MOEPOOL_RETURN_IF_ERROR(in.CheckNeutral(key));
  MOEPOOL_ASSIGN_OR_RETURN(config.hidden, in.Int("embedding_length", 1, kMaxHidden));
  MOEPOOL_ASSIGN_OR_RETURN(config.layers, in.Int("block_count", 1, kMaxLayers));
  MOEPOOL_ASSIGN_OR_RETURN(config.context_tokens, in.Int("context_length", 1, kMaxContext));
  MOEPOOL_ASSIGN_OR_RETURN(const double eps, in.PositiveOr("attention.layer_norm_rms_epsilon", 0));
  if (eps > 1) return in.Bad("attention.layer_norm_rms_epsilon", eps, "at most 1");
  config.norm_eps = static_cast<float>(eps);
  config.norm = family->norm;
  config.norm_bias = family->norm == NormKind::kLayer;
  config.qk_norm = family->qk_norm;
  config.qkv_bias = family->qkv_bias || tensors.Find("blk.0.attn_q.bias") != nullptr;
  config.attn_output_bias = family->attn_output_bias || tensors.Find("blk.0.attn_output.bias") != nullptr;
  config.output_bias = family->output_bias || tensors.Find("output.bias") != nullptr;
  MOEPOOL_RETURN_IF_ERROR(ReadAttention(in, *family, &config));
  MOEPOOL_RETURN_IF_ERROR(ReadRope(in, *family, tensors, &config));
  MOEPOOL_RETURN_IF_ERROR(ReadFfn(in, *family, &config));
  MOEPOOL_RETURN_IF_ERROR(ReadVocabulary(in, *family, tensors, &config));
  return config;
}

absl::Status SetRopeFactors(std::string_view tensor, std::span<const float> factors, ModelConfig* config) {
  if (factors.size() != static_cast<size_t>(config->rope.dims / 2)) {
    return absl::InvalidArgumentError(StrCat("tensor ", Quoted(tensor), " has ", factors.size(),
                                             " factors, expected ", config->rope.dims / 2));
  }
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0) || !std::isfinite(factors[i])) {
      return absl::InvalidArgumentError(StrCat("tensor ", Quoted(tensor), ": factor ", i, " is ", factors[i],
                                               ", expected positive and finite"));
    }
    if (config->context_tokens / (config->rope.linear_factor * factors[i]) > kMaxAngle) {
      return absl::InvalidArgumentError(StrCat("tensor ", Quoted(tensor), ": factor ", i, " is ", factors[i],
                                               ", too small for a context of ", config->context_tokens));
    }
  }
  (tensor == kRopeLongTensor ? config->rope.long_factors : config->rope.freq_factors)
      .assign(factors.begin(), factors.end());
  return absl::OkStatus();
}

}  // namespace moepool
