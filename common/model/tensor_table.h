// The tensors of a model by name.
#pragma once

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/model/model_source.h"

namespace moepool {

// Immutable. Names are distinct.
class TensorTable {
 public:
  explicit TensorTable(std::vector<TensorInfo> tensors)
      : tensors_(std::move(tensors)), by_name_(tensors_.size()) {
    for (size_t i = 0; i < by_name_.size(); ++i) by_name_[i] = i;
    std::sort(by_name_.begin(), by_name_.end(),
              [this](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
  }

  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  const std::vector<size_t>& by_name() const { return by_name_; }  // indices, in order of name

  const TensorInfo* Find(std::string_view name) const {
    const auto it = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                     [this](size_t i, std::string_view n) { return tensors_[i].name < n; });
    if (it == by_name_.end() || tensors_[*it].name != name) return nullptr;
    return &tensors_[*it];
  }
  // Of a tensor that Find() or tensors() returned.
  size_t IndexOf(const TensorInfo& tensor) const { return static_cast<size_t>(&tensor - tensors_.data()); }

 private:
  std::vector<TensorInfo> tensors_;
  std::vector<size_t> by_name_;
};

// OutOfRange, with both values, unless [offset, offset + bytes) lies within the tensor.
absl::Status CheckRange(const TensorInfo& tensor, uint64_t offset, uint64_t bytes);

}  // namespace moepool
