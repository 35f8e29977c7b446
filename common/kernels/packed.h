// Weights repacked for the CPU kernels: 16 output rows interleaved, so that a register holds the same columns
// of many rows and no horizontal sum is needed. Rows are padded with zeros to a multiple of 16.
//
// Codes of one group and 32-column block; quad = 4 consecutive columns, a vector = [16 rows][4 columns], 64
// bytes:
//   Q8_0             8 vectors, one a quad
//   Q4_0 Q4_1 Q4_K   4 vectors: quad v in the low nibbles, quad v + 4 in the high
//   Q6_K             the same 4 for the low 4 bits, then 2 vectors of high bits: quad v + 2 i in bits 2 i, 2
//   i + 1 of vector v
// Scales of the block, as stored in the file:
//   Q8_0 Q4_0        f16 d [16 rows]
//   Q4_1             f16 d [16], f16 m [16]
//   Q4_K             u8 scale [16], u8 min [16]            superscales: f16 d [16], f16 dmin [16]
//   Q6_K             i8 scale [16][2 halves]               superscales: f16 d [16]
// F32 F16 BF16       [column][16 rows]
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "common/base/aligned_bytes.h"
#include "common/kernels/kernels.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

struct PackedMatrix {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  AlignedBytes bytes;
  PackedWeights weights{};

  int64_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
};

// InvalidArgument where the columns of a quantised type are no multiple of 32, DataLoss where a scale (or an
// F32, F16 or BF16 weight) is not finite, ResourceExhausted where there is no memory.
absl::StatusOr<PackedMatrix> Pack(const MatrixView& view);

}  // namespace moepool
