// A synthetic model with one number, or one type, that is not as it should be.
#pragma once

#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/model/model_source.h"

namespace moepool {

inline constexpr int32_t kPoison = 7;  // the token whose embedding is made to hold an infinity

// Of f32 embeddings.
class SpoiltSource : public ModelSource {
 public:
  explicit SpoiltSource(std::unique_ptr<ModelSource> inner) : inner_(std::move(inner)) {}
  const ModelConfig& Config() const override { return inner_->Config(); }
  const TokenizerSpec& Tokenizer() const override { return inner_->Tokenizer(); }
  const std::vector<TensorInfo>& Tensors() const override { return inner_->Tensors(); }
  const TensorInfo* Find(std::string_view name) const override {
    const auto it = types_.find(name);
    return it == types_.end() ? inner_->Find(name) : &it->second;
  }
  absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const override {
    absl::StatusOr<TensorBytes> range = inner_->Range(name, offset, bytes);
    if (!range.ok() || name != "token_embd.weight" || offset != 0) return range;
    auto copy = std::make_shared<std::vector<std::byte>>(range->bytes.begin(), range->bytes.end());
    const float infinity = std::numeric_limits<float>::infinity();
    std::memcpy(copy->data() + kPoison * Config().hidden * sizeof(float), &infinity, sizeof(infinity));
    return TensorBytes{*copy, copy};
  }
  absl::StatusOr<ModelDigest> Digest() const override { return inner_->Digest(); }

  void SetType(const std::string& name, DType dtype) {
    types_[name] = *inner_->Find(name);
    types_[name].dtype = dtype;
  }

 private:
  const std::unique_ptr<ModelSource> inner_;
  std::map<std::string, TensorInfo, std::less<>> types_;
};

}  // namespace moepool
