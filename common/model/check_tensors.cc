// CheckTensors (descriptor.h): the tensors of a model as its configuration implies them, against those of the
// file.
#include <set>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/descriptor.h"
#include "common/model/expert_tensors.h"

namespace moepool {
namespace {

std::string ShapeOf(int n_dims, const std::array<int64_t, 4>& dims) {
  std::string shape = "[";
  for (int i = 0; i < n_dims; ++i) shape += StrCat(i == 0 ? "" : ", ", dims[i]);
  return shape + "]";
}

class Checker {
 public:
  explicit Checker(const TensorTable& tensors) : tensors_(tensors) {}

  // Missing dimensions are 1, as in a file.  A vector's elements are read one by one: it is never quantised.
  absl::Status Vector(std::string name, int64_t size) { return Expect(std::move(name), 1, {size, 1, 1, 1}); }
  absl::Status Matrix(std::string name, int64_t cols, int64_t rows) {
    return Expect(std::move(name), 2, {cols, rows, 1, 1});
  }
  absl::Status Stack(std::string name, int64_t cols, int64_t rows, int64_t experts) {
    return Expect(std::move(name), 3, {cols, rows, experts, 1});
  }
  // The weight of a norm, and its bias where the family has one.
  absl::Status Norm(const std::string& name, int64_t size, bool bias) {
    MOEPOOL_RETURN_IF_ERROR(Vector(StrCat(name, ".weight"), size));
    return bias ? Vector(StrCat(name, ".bias"), size) : absl::OkStatus();
  }
  void Ignore(std::string name) { known_.insert(std::move(name)); }
  bool Has(std::string_view name) const { return tensors_.Find(name) != nullptr; }
  const TensorTable& tensors() const { return tensors_; }

  absl::Status RefuseOthers(std::string_view family) const {
    for (const TensorInfo& tensor : tensors_.tensors()) {
      if (known_.count(tensor.name) == 0) {
        return absl::UnimplementedError(
            StrCat("tensor ", Quoted(tensor.name), " is not one that family '", family, "' uses"));
      }
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Expect(std::string name, int n_dims, std::array<int64_t, 4> dims) {
    const TensorInfo* tensor = tensors_.Find(name);
    if (tensor == nullptr) return absl::InvalidArgumentError(StrCat("tensor ", Quoted(name), " is missing"));
    if (tensor->dims != dims) {
      return absl::InvalidArgumentError(StrCat("tensor ", Quoted(name), " has shape ",
                                               ShapeOf(tensor->n_dims, tensor->dims), ", expected ",
                                               ShapeOf(n_dims, dims)));
    }
    if (n_dims == 1 && Info(tensor->dtype).quantized) {
      return absl::InvalidArgumentError(StrCat("tensor ", Quoted(name), " is of type ",
                                               Info(tensor->dtype).name, ", expected F32, F16 or BF16"));
    }
    known_.insert(std::move(name));
    return absl::OkStatus();
  }

  const TensorTable& tensors_;
  std::set<std::string, std::less<>> known_;
};

absl::Status CheckAttention(const ModelConfig& config, const std::string& prefix, Checker* check) {
  const auto name = [&](std::string_view suffix) { return StrCat(prefix, suffix); };
  const int64_t hidden = config.hidden;
  const int64_t q = int64_t{config.heads} * config.head_dim;
  const int64_t kv = int64_t{config.kv_heads} * config.head_dim;
  MOEPOOL_RETURN_IF_ERROR(check->Norm(name("attn_norm"), hidden, config.norm_bias));
  MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("attn_q.weight"), hidden, q));
  MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("attn_k.weight"), hidden, kv));
  MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("attn_v.weight"), hidden, kv));
  MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("attn_output.weight"), q, hidden));
  if (config.qkv_bias) {
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_q.bias"), q));
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_k.bias"), kv));
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_v.bias"), kv));
  }
  if (config.attn_output_bias) {
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_output.bias"), hidden));
  }
  if (config.qk_norm != QkNorm::kNone) {
    const bool row = config.qk_norm == QkNorm::kRow;
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_q_norm.weight"), row ? q : config.head_dim));
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("attn_k_norm.weight"), row ? kv : config.head_dim));
  }
  // Rotary frequencies of one layer, which old converters wrote out; they follow from the configuration.
  check->Ignore(name("attn_rot_embd"));
  check->Ignore(name("attn_rot_embd.weight"));
  return absl::OkStatus();
}

absl::Status CheckExperts(const ModelConfig& config, int layer, Checker* check) {
  const auto name = [&](std::string_view matrix, int expert) {
    return ExpertTensorName(config, layer, matrix, expert);
  };
  if (!SplitExperts(config, check->tensors(), layer)) {
    const int all = kAllExperts;
    MOEPOOL_RETURN_IF_ERROR(check->Stack(name("ffn_gate", all), config.hidden, config.ffn, config.experts));
    MOEPOOL_RETURN_IF_ERROR(check->Stack(name("ffn_up", all), config.hidden, config.ffn, config.experts));
    return check->Stack(name("ffn_down", all), config.ffn, config.hidden, config.experts);
  }
  for (int e = 0; e < config.experts; ++e) {
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_gate", e), config.hidden, config.ffn));
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_up", e), config.hidden, config.ffn));
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_down", e), config.ffn, config.hidden));
  }
  return absl::OkStatus();
}

absl::Status CheckLayer(const ModelConfig& config, int layer, Checker* check) {
  const std::string prefix = StrCat("blk.", layer, ".");
  const auto name = [&](std::string_view suffix) { return StrCat(prefix, suffix); };
  MOEPOOL_RETURN_IF_ERROR(CheckAttention(config, prefix, check));
  MOEPOOL_RETURN_IF_ERROR(check->Norm(name("ffn_norm"), config.hidden, config.norm_bias));
  if (config.dense()) {
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_gate.weight"), config.hidden, config.ffn));
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_up.weight"), config.hidden, config.ffn));
    return check->Matrix(name("ffn_down.weight"), config.ffn, config.hidden);
  }
  MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_gate_inp.weight"), config.hidden, config.experts));
  if (config.shared_ffn > 0) {
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_gate_shexp.weight"), config.hidden, config.shared_ffn));
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_up_shexp.weight"), config.hidden, config.shared_ffn));
    MOEPOOL_RETURN_IF_ERROR(check->Matrix(name("ffn_down_shexp.weight"), config.shared_ffn, config.hidden));
  }
  if (config.shared_gated) {
    MOEPOOL_RETURN_IF_ERROR(check->Vector(name("ffn_gate_inp_shexp.weight"), config.hidden));
  }
  return CheckExperts(config, layer, check);
}

}  // namespace

absl::Status CheckTensors(const ModelConfig& config, const TensorTable& tensors) {
  Checker check(tensors);
  MOEPOOL_RETURN_IF_ERROR(check.Matrix("token_embd.weight", config.hidden, config.vocab_size));
  MOEPOOL_RETURN_IF_ERROR(check.Norm("output_norm", config.hidden, config.norm_bias));
  if (!config.tied_embeddings) {
    MOEPOOL_RETURN_IF_ERROR(check.Matrix("output.weight", config.hidden, config.vocab_size));
  }
  if (config.output_bias) MOEPOOL_RETURN_IF_ERROR(check.Vector("output.bias", config.vocab_size));
  if (config.rope.original_context_tokens > 0) {  // LongRoPE
    MOEPOOL_RETURN_IF_ERROR(check.Vector(std::string(kRopeShortTensor), config.rope.dims / 2));
    MOEPOOL_RETURN_IF_ERROR(check.Vector(std::string(kRopeLongTensor), config.rope.dims / 2));
  } else if (check.Has(kRopeFreqsTensor)) {
    MOEPOOL_RETURN_IF_ERROR(check.Vector(std::string(kRopeFreqsTensor), config.rope.dims / 2));
  }
  for (int layer = 0; layer < config.layers; ++layer) {
    MOEPOOL_RETURN_IF_ERROR(CheckLayer(config, layer, &check));
  }
  return check.RefuseOthers(config.family);
}

absl::Status CheckRange(const TensorInfo& tensor, uint64_t offset, uint64_t bytes) {
  if (offset <= tensor.bytes && bytes <= tensor.bytes - offset) return absl::OkStatus();
  return absl::OutOfRangeError(StrCat("tensor ", Quoted(tensor.name), ": ", bytes, " bytes at offset ",
                                      offset, " reach beyond its ", tensor.bytes, " bytes"));
}

}  // namespace moepool
