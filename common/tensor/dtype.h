// Element types of weights, with the block geometry of GGUF (columns and bytes a block).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace moepool {

enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ8_0,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kMXFP4,
};
inline constexpr int kDTypeCount = 15;

// IQ4_NL: what a 4-bit code stands for, in units of the block's scale.
inline constexpr int8_t kIq4NlValues[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                            1,    13,   25,  38,  53,  69,  89,  113};

// MXFP4 (OCP Microscaling Formats 1.0): twice what a 4-bit code (E2M1) stands for, in units of the block's
// scale, which is a power of two (E8m0ToFloat).
inline constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct DTypeInfo {
  std::string_view name;  // "Q4_1"
  uint32_t ggml_type;     // number in a GGUF file
  int block_cols;         // columns a block
  int block_bytes;        // bytes a block
  bool quantized;         // its products read activations as int8 blocks of 32; otherwise as f32
};

const DTypeInfo& Info(DType dtype);

// "F32, F16, ...": all names, for messages and help.
std::string DTypeNames();

// InvalidArgument names the number where it is not a type that moepool reads.
absl::StatusOr<DType> DTypeFromGgml(uint32_t ggml_type);
// Accepts "q4_1" and "Q4_1".
absl::StatusOr<DType> DTypeFromName(std::string_view name);

// Bytes of a row of `cols` elements; cols is a multiple of block_cols.
inline int64_t RowBytes(DType dtype, int64_t cols) {
  return cols / Info(dtype).block_cols * Info(dtype).block_bytes;
}

}  // namespace moepool
