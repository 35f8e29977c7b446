// Writes the header of a GGUF file (version 3). The tensors' bytes follow it, in the order of AddTensor, each
// padded to the alignment.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/gguf_metadata.h"
#include "common/model/model_source.h"

namespace moepool {

// Keys and names are the caller's to keep distinct.
class GgufHeader {
 public:
  void AddU32(std::string_view key, uint32_t value);
  void AddF32(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStrings(std::string_view key, std::span<const std::string> values);
  void AddI32s(std::string_view key, std::span<const int32_t> values);
  // name, dtype, n_dims, dims and bytes of `info` are written; bytes decides where the next tensor begins.
  void AddTensor(const TensorInfo& info);

  // The header, padded to the alignment.
  std::string Serialize() const;
  // Of the tensor's first byte, from the end of the header; by order of AddTensor.
  const std::vector<uint64_t>& offsets() const { return offsets_; }
  // Of all tensors and the padding behind each.
  uint64_t data_bytes() const { return data_bytes_; }

 private:
  void AddKey(std::string_view key, GgufType type);

  std::string pairs_;
  uint64_t pair_count_ = 0;
  std::string tensors_;
  std::vector<uint64_t> offsets_;
  uint64_t data_bytes_ = 0;
};

// `bytes` up to the next multiple of the alignment that GgufHeader uses.
uint64_t GgufPadded(uint64_t bytes);

}  // namespace moepool
