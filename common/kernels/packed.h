// Weights repacked for the CPU kernels: 16 output rows interleaved, so that a register holds the same columns
// of many rows and no horizontal sum is needed. Rows are padded with zeros to a multiple of 16.
//
// A group is its 32-column blocks in ascending order, each scales and then codes. The superscales of a
// K-quant stand before the first block of each 256-column super-block that the group has a part of. So a
// product reads one stream from end to end, which is what hardware prefetches best: with scales and codes in
// planes of their own, one row got 30 GB/s of the 48 that it now gets to within a tenth.
//
// Codes of a block; quad = 4 consecutive columns, a vector = [16 rows][4 columns], 64 bytes:
//   nibbles          4 vectors: quad v in the low nibbles of vector v, quad v + 4 in the high
//   pairs            2 vectors of 2 bits: quad v + 2 i in bits 2 i, 2 i + 1 of vector v
//   bits             1 vector of single bits: quad i in bit i
//   Q4_0 Q4_1 Q4_K           nibbles
//   IQ4_NL MXFP4             nibbles
//   Q5_0 Q5_1 Q5_K           nibbles, then bits (bit 4)
//   Q8_0                     8 vectors of whole bytes, one a quad
//   Q2_K                     pairs
//   Q3_K                     pairs, then bits (bit 2)
//   Q6_K                     nibbles, then pairs (bits 4 and 5)
// Scales of the block:
//   Q4_0 Q5_0 Q8_0 IQ4_NL    f16 d [16 rows]
//   MXFP4                    u8 e [16]
//   Q4_1 Q5_1                f16 d [16], f16 m [16]
//   Q2_K                     u8 scale + 16 min [16][2 halves]   superscales: f16 d [16], f16 dmin [16]
//   Q3_K Q6_K                i8 scale [16][2 halves]            superscales: f16 d [16]
//   Q4_K Q5_K                u8 scale [16], u8 min [16]         superscales: f16 d [16], f16 dmin [16]
// All as stored in the file, but for the scales of Q3_K, whose offset of 32 is taken off. So the parts of a
// block are multiples of 16 bytes.
// MXFP4: a code stands for kMxfp4Values[code], which is doubled, under d = 2^(e - 128), which is halved; e is
// at most 254. f16 reaches 2^-24 to 2^15 alone; an f32 is exact, for e = 0 and 1 a subnormal. A product is
//   acc = fma(float(sum of value x), d d_x, acc)
// whose sum is within 32 * 12 * 127 < 2^24, and whose d d_x is rounded only where it is subnormal, by at most
// 2^-150.
// F32 F16 BF16               [column][16 rows]
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/kernels/kernels.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

// Changes with anything above: what is kept of packed weights is named by it.
inline constexpr int kPackedLayoutVersion = 2;

struct PackedMatrix {
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  PackedWeights weights{};            // data is null until there is some
  std::shared_ptr<const void> owner;  // of weights.data

  int64_t groups() const { return (rows + kGroupRows - 1) / kGroupRows; }
  uint64_t bytes() const { return static_cast<uint64_t>(groups() * weights.group_bytes); }
};

// The matrix without its data. InvalidArgument where the columns of a quantised type are no multiple of 32.
absl::StatusOr<PackedMatrix> PlanPack(const MatrixView& view);

// Fills the data of PlanPack(view): m.bytes() at `to`, aligned to 64 bytes and zeroed. DataLoss where a scale
// (or an F32, F16, BF16 or MXFP4 weight) is not finite.
absl::Status PackInto(const MatrixView& view, const PackedMatrix& m, std::byte* to);

// Both, in memory of its own. ResourceExhausted where there is none.
absl::StatusOr<PackedMatrix> Pack(const MatrixView& view);

}  // namespace moepool
