// What the kernel tests share: pairs of tables to compare, random weights in the file's formats, guarded
// outputs.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "common/kernels/kernels.h"
#include "common/tensor/dtype.h"
#include "common/tensor/half.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

inline constexpr uint64_t kTestSeed = 20240611;

// Tables to compare with the scalar one; empty where the processor has none of them.
inline std::vector<const KernelTable*> SimdTables() {
  const auto all = AvailableKernels();
  return {all.begin() + 1, all.end()};
}

// The same bits, or both NaN (whose payload follows the order of operands, which no result depends on).
inline bool SameFloat(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

inline ::testing::AssertionResult SameFloats(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (size_t i = 0; i < a.size(); ++i) {
    if (!SameFloat(a[i], b[i])) {
      return ::testing::AssertionFailure() << "at " << i << ": " << std::hexfloat << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

// n values between guards, at an address that is `misalign` floats past a multiple of 64 bytes.
class GuardedFloats {
 public:
  explicit GuardedFloats(size_t n, size_t misalign = 0) : n_(n), storage_(n + 2 * kGuard + 32, kPattern) {
    const size_t past = reinterpret_cast<uintptr_t>(storage_.data()) / sizeof(float) % 16;
    begin_ = kGuard + (16 - past) % 16 + misalign % 16;
  }
  float* data() { return storage_.data() + begin_; }
  std::vector<float> Values() { return {data(), data() + n_}; }
  bool GuardsHold() const {
    for (size_t i = 0; i < storage_.size(); ++i) {
      const bool inside = i >= begin_ && i < begin_ + n_;
      if (!inside && storage_[i] != kPattern) return false;
    }
    return true;
  }

 private:
  static constexpr size_t kGuard = 64;
  static constexpr float kPattern = 12345.675f;
  size_t n_;
  size_t begin_ = 0;
  std::vector<float> storage_;
};

enum class Scales { kOrdinary, kTiny, kHuge };
enum class Codes { kRandom, kAllZeroBits, kAllOneBits, kSignBit };

// A matrix of random blocks in `dtype`'s file format.
struct RandomWeights {
  std::vector<std::byte> bytes;
  MatrixView view;
  double largest = 0;  // no term scale * code, and no minimum, is larger in magnitude
};

inline uint16_t RandomScale(Scales kind, std::mt19937_64& rng) {
  std::uniform_real_distribution<float> unit(-1.0f, 1.0f);
  switch (kind) {
    case Scales::kOrdinary:
      return FloatToHalf(unit(rng) * 0.05f);
    case Scales::kTiny:
      return static_cast<uint16_t>((rng() & 0x8000) | rng() % 3);  // 0 and subnormals
    case Scales::kHuge:
      return static_cast<uint16_t>((rng() & 0x8000) | 0x7bff);  // 65504
  }
  return 0;
}

// The same for MXFP4, whose scales are bytes; the largest with which every code is finite.
inline uint8_t RandomExponent(Scales kind, std::mt19937_64& rng) {
  switch (kind) {
    case Scales::kOrdinary:
      return static_cast<uint8_t>(118 + rng() % 5);  // up to 2^-5
    case Scales::kTiny:
      return static_cast<uint8_t>(rng() % 3);  // two subnormals, and the least that is none
    case Scales::kHuge:
      return 252;
  }
  return 0;
}

// Where the f16 scales (and minima) lie in a block of a quantised type.
inline std::vector<size_t> ScaleOffsets(DType dtype) {
  switch (dtype) {
    case DType::kQ4_1:
    case DType::kQ5_1:
    case DType::kQ4_K:
    case DType::kQ5_K:
      return {0, 2};
    case DType::kQ2_K:
      return {80, 82};
    case DType::kQ3_K:
      return {108};
    case DType::kQ6_K:
      return {208};
    case DType::kMXFP4:
      return {};  // a byte, 2^(e - 127): RandomExponent
    default:
      return {0};
  }
}

// Where a block of any type has a value that has to be finite: what PutNotFinite writes to.
inline std::vector<size_t> FiniteOffsets(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kMXFP4 ? std::vector<size_t>{0} : ScaleOffsets(dtype);
}
inline void PutNotFinite(DType dtype, size_t offset, std::byte* block) {
  if (dtype == DType::kMXFP4) {
    block[offset] = std::byte{255};  // NaN
    return;
  }
  const bool wide = dtype == DType::kF32 || dtype == DType::kBF16;
  const size_t top = offset + (dtype == DType::kF32 ? 2 : 0);
  block[top] = std::byte{0x80};
  block[top + 1] = wide ? std::byte{0x7f} : std::byte{0x7c};
}

// The largest |scale code * code| of a quantised type, and no less than its largest minimum.
inline double LargestCode(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
      return 8;
    case DType::kQ4_1:
      return 15;
    case DType::kQ5_0:
      return 16;
    case DType::kQ5_1:
      return 31;
    case DType::kQ8_0:
      return 128;
    case DType::kQ2_K:
      return 15 * 3;
    case DType::kQ3_K:
      return 32 * 4;
    case DType::kQ4_K:
      return 63 * 15;
    case DType::kQ5_K:
      return 63 * 31;
    case DType::kQ6_K:
      return 128 * 32;
    case DType::kIQ4_NL:
      return 127;
    case DType::kMXFP4:
      return 6;
    case DType::kF32:
    case DType::kF16:
    case DType::kBF16:
      break;
  }
  return 1;
}

inline constexpr DType kAllTypes[] = {DType::kF32,  DType::kF16,    DType::kBF16, DType::kQ4_0,
                                      DType::kQ4_1, DType::kQ5_0,   DType::kQ5_1, DType::kQ8_0,
                                      DType::kQ2_K, DType::kQ3_K,   DType::kQ4_K, DType::kQ5_K,
                                      DType::kQ6_K, DType::kIQ4_NL, DType::kMXFP4};
static_assert(std::size(kAllTypes) == kDTypeCount);

// col_begin and cols are those of the view; rows in the file reach to the next block.
inline RandomWeights MakeWeights(DType dtype, int64_t rows, int64_t col_begin, int64_t cols, Scales scales,
                                 Codes codes, uint64_t seed) {
  std::mt19937_64 rng(seed);
  const DTypeInfo& info = Info(dtype);
  const int64_t file_cols = (col_begin + cols + info.block_cols - 1) / info.block_cols * info.block_cols;
  RandomWeights w;
  const int64_t row_bytes = RowBytes(dtype, file_cols);
  w.bytes.resize(static_cast<size_t>(rows * row_bytes));
  for (std::byte& b : w.bytes) {
    b = static_cast<std::byte>(codes == Codes::kRandom        ? rng()
                               : codes == Codes::kAllZeroBits ? 0x00
                               : codes == Codes::kAllOneBits  ? 0xff
                                                              : 0x80);
  }
  const auto put = [](std::byte* p, uint16_t h) { std::memcpy(p, &h, sizeof h); };
  for (size_t at = 0; at < w.bytes.size(); at += info.block_bytes) {
    std::byte* const block = w.bytes.data() + at;
    switch (dtype) {
      case DType::kF32: {
        const float x = HalfToFloat(RandomScale(scales, rng));
        std::memcpy(block, &x, sizeof x);
        break;
      }
      case DType::kF16:
        put(block, RandomScale(scales, rng));
        break;
      case DType::kBF16:
        put(block, FloatToBFloat16(HalfToFloat(RandomScale(scales, rng))));
        break;
      case DType::kMXFP4:
        *block = static_cast<std::byte>(RandomExponent(scales, rng));
        break;
      default:
        for (size_t offset : ScaleOffsets(dtype)) put(block + offset, RandomScale(scales, rng));
        break;
    }
  }
  const double scale = scales == Scales::kOrdinary ? 0.0501 : scales == Scales::kTiny ? 0x1p-23 : 65504;
  w.largest = scale * LargestCode(dtype);
  w.view = {dtype, rows, cols, w.bytes.data(), row_bytes, col_begin};
  return w;
}

}  // namespace moepool
