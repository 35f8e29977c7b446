// What the kernel tests share: pairs of tables to compare, random weights in the file's formats, guarded
// outputs.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
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
  std::vector<const KernelTable*> tables;
  if (Avx2Kernels() != nullptr) tables.push_back(Avx2Kernels());
  return tables;
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
      case DType::kQ4_0:
      case DType::kQ8_0:
        put(block, RandomScale(scales, rng));
        break;
      case DType::kQ4_1:
      case DType::kQ4_K:
        put(block, RandomScale(scales, rng));
        put(block + 2, RandomScale(scales, rng));
        break;
      case DType::kQ6_K:
        put(block + 208, RandomScale(scales, rng));
        break;
    }
  }
  const double scale = scales == Scales::kOrdinary ? 0.0501 : scales == Scales::kTiny ? 0x1p-23 : 65504;
  switch (dtype) {
    case DType::kQ4_0:
      w.largest = scale * 8;
      break;
    case DType::kQ4_1:
      w.largest = scale * 15;
      break;
    case DType::kQ8_0:
      w.largest = scale * 128;
      break;
    case DType::kQ4_K:
      w.largest = scale * 63 * 15;
      break;
    case DType::kQ6_K:
      w.largest = scale * 128 * 32;
      break;
    default:
      w.largest = scale;
      break;
  }
  w.view = {dtype, rows, cols, w.bytes.data(), row_bytes, col_begin};
  return w;
}

}  // namespace moepool
