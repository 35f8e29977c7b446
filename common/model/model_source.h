// Where weights come from. A source hands out the file's own bytes; repacking is the backend's business.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/config.h"
#include "common/model/tokenizer_spec.h"
#include "common/tensor/dtype.h"

namespace moepool {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  int n_dims = 0;
  std::array<int64_t, 4> dims = {1, 1, 1, 1};  // dims[0] varies fastest: columns, rows, experts
  uint64_t bytes = 0;
};

// Bytes of (part of) a tensor; the memory lives as long as the object. Where a file is mapped, the mapping
// covers the pages of this range and no others, and goes with the object.
struct TensorBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;
};

// SHA-256 over the configuration, and over name, type, shape and SHA-256 of each tensor in order of name.
using ModelDigest = std::array<uint8_t, 32>;

// Thread-safe: all methods may be called at once.
class ModelSource {
 public:
  virtual ~ModelSource() = default;
  virtual const ModelConfig& Config() const = 0;
  virtual const TokenizerSpec& Tokenizer() const = 0;
  virtual const std::vector<TensorInfo>& Tensors() const = 0;
  // Null where the model has no such tensor.
  virtual const TensorInfo* Find(std::string_view name) const = 0;
  // NotFound names the tensor. OutOfRange where [offset, offset + bytes) leaves it, with both values.
  virtual absl::StatusOr<TensorBytes> Range(std::string_view name, uint64_t offset, uint64_t bytes) const = 0;
  // Reads every byte once the first time; remembered afterwards. DataLoss where the file cannot be read, or
  // is no longer as it was when it was opened.
  virtual absl::StatusOr<ModelDigest> Digest() const = 0;
};

}  // namespace moepool
