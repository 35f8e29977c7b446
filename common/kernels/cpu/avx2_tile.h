// What the AVX2 products of all quantised formats share: the tile, and dot products of unsigned codes. Sums
// in 16 bits saturate, so each states its bound.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/cpu/block_cursor.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

// The tokens of one tile, at one block.
template <int T>
struct TileRows {
  const ActivationBlock* row[T];
};

template <int T>
struct IntTile {
  __m256i sum[T][2];
};
template <int T>
struct FloatTile {
  __m256 acc[T][2];
};

// acc = fma(float(isum), scale * d_x, acc) for rows 8 h to 8 h + 7.
template <int T>
inline void AddScaled(const IntTile<T>& ints, int h, __m256 scale, const TileRows<T>& x, int64_t b,
                      FloatTile<T>* f) {
  for (int t = 0; t < T; ++t) {
    const __m256 factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(&x.row[t][b].scale));
    f->acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints.sum[t][h]), factor, f->acc[t][h]);
  }
}

// sum over 32 columns of code * x, codes of 4 bits. A 16-bit lane adds 8 pairs of at most 2 * 15 * 127 = 3810
// each, 30480 in all: no saturation.
template <int T>
inline void DotNibbles(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
  const __m256i mask = _mm256_set1_epi8(15);
  __m256i sum[T][2];
  for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1  // unrolled, its loads are hoisted, and the accumulators spill: 20 % slower at 4 tokens
  for (int v = 0; v < 4; ++v) {
    const __m256i c0 = Load32(codes + 64 * v);
    const __m256i c1 = Load32(codes + 64 * v + 32);
    const __m256i low0 = _mm256_and_si256(c0, mask);
    const __m256i low1 = _mm256_and_si256(c1, mask);
    const __m256i high0 = _mm256_and_si256(_mm256_srli_epi16(c0, 4), mask);
    const __m256i high1 = _mm256_and_si256(_mm256_srli_epi16(c1, 4), mask);
    for (int t = 0; t < T; ++t) {
      const int8_t* const q = x.row[t][b].q + 4 * v;
      const __m256i xl = Broadcast4(q);
      sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(low0, xl));
      sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(low1, xl));
      const __m256i xh = Broadcast4(q + 16);
      sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(high0, xh));
      sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(high1, xh));
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < T; ++t) {
    out->sum[t][0] = _mm256_madd_epi16(sum[t][0], ones);
    out->sum[t][1] = _mm256_madd_epi16(sum[t][1], ones);
  }
}

// The same for codes of 5 bits: nibbles and a vector of bits (packed.h). 4 pairs of at most 2 * 31 * 127 are
// 31496, 8 would saturate: hence two passes over half the vectors.
template <int T>
inline void DotFiveBits(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i bit4 = _mm256_set1_epi8(16);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < T; ++t) out->sum[t][0] = out->sum[t][1] = _mm256_setzero_si256();
  // Quad v has its bit in bit v, quad v + 4 in bit v + 4; each step moves the next to bits 0 and 4.
  __m256i bits0 = Load32(codes + 256);
  __m256i bits1 = Load32(codes + 256 + 32);
#pragma GCC unroll 1  // as above
  for (int pass = 0; pass < 2; ++pass) {
    __m256i sum[T][2];
    for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int v = 2 * pass; v < 2 * pass + 2; ++v) {
      const __m256i c0 = Load32(codes + 64 * v);
      const __m256i c1 = Load32(codes + 64 * v + 32);
      const __m256i top0 = _mm256_slli_epi16(bits0, 4);
      const __m256i top1 = _mm256_slli_epi16(bits1, 4);
      const __m256i low0 = _mm256_or_si256(_mm256_and_si256(c0, mask), _mm256_and_si256(top0, bit4));
      const __m256i low1 = _mm256_or_si256(_mm256_and_si256(c1, mask), _mm256_and_si256(top1, bit4));
      const __m256i high0 =
          _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c0, 4), mask), _mm256_and_si256(bits0, bit4));
      const __m256i high1 =
          _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c1, 4), mask), _mm256_and_si256(bits1, bit4));
      bits0 = _mm256_srli_epi16(bits0, 1);
      bits1 = _mm256_srli_epi16(bits1, 1);
      for (int t = 0; t < T; ++t) {
        const int8_t* const q = x.row[t][b].q + 4 * v;
        const __m256i xl = Broadcast4(q);
        sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(low0, xl));
        sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(low1, xl));
        const __m256i xh = Broadcast4(q + 16);
        sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(high0, xh));
        sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(high1, xh));
      }
    }
    for (int t = 0; t < T; ++t) {
      for (int h = 0; h < 2; ++h) {
        out->sum[t][h] = _mm256_add_epi32(out->sum[t][h], _mm256_madd_epi16(sum[t][h], ones));
      }
    }
  }
}

// The same for what MXFP4's codes stand for, plus 12: 0 to 24, which VPSHUFB looks up. 4 pairs of at most
// 2 * 24 * 127 are 24384, 8 would saturate: hence two passes.
template <int T>
inline void DotOffsetE2m1(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
  const __m256i table = _mm256_add_epi8(
      _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kMxfp4Values))),
      _mm256_set1_epi8(12));
  const __m256i mask = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  for (int t = 0; t < T; ++t) out->sum[t][0] = out->sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1  // as above
  for (int pass = 0; pass < 2; ++pass) {
    __m256i sum[T][2];
    for (int t = 0; t < T; ++t) sum[t][0] = sum[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (int v = 2 * pass; v < 2 * pass + 2; ++v) {
      const __m256i c0 = Load32(codes + 64 * v);
      const __m256i c1 = Load32(codes + 64 * v + 32);
      const __m256i low0 = _mm256_shuffle_epi8(table, _mm256_and_si256(c0, mask));
      const __m256i low1 = _mm256_shuffle_epi8(table, _mm256_and_si256(c1, mask));
      const __m256i high0 = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(c0, 4), mask));
      const __m256i high1 = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(c1, 4), mask));
      for (int t = 0; t < T; ++t) {
        const int8_t* const q = x.row[t][b].q + 4 * v;
        const __m256i xl = Broadcast4(q);
        sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(low0, xl));
        sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(low1, xl));
        const __m256i xh = Broadcast4(q + 16);
        sum[t][0] = _mm256_add_epi16(sum[t][0], _mm256_maddubs_epi16(high0, xh));
        sum[t][1] = _mm256_add_epi16(sum[t][1], _mm256_maddubs_epi16(high1, xh));
      }
    }
    for (int t = 0; t < T; ++t) {
      for (int h = 0; h < 2; ++h) {
        out->sum[t][h] = _mm256_add_epi32(out->sum[t][h], _mm256_madd_epi16(sum[t][h], ones));
      }
    }
  }
}

// The products of the formats: Dot(codes, x, b, out) is the sum over 32 columns of code * x.
struct NibbleCodes {
  static constexpr int kBytes = 256;
  template <int T>
  static void Dot(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
    DotNibbles(codes, x, b, out);
  }
};
struct FiveBitCodes {
  static constexpr int kBytes = 320;
  template <int T>
  static void Dot(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
    DotFiveBits(codes, x, b, out);
  }
};
struct OffsetE2m1Codes {
  static constexpr int kBytes = 256;
  template <int T>
  static void Dot(const uint8_t* codes, const TileRows<T>& x, int64_t b, IntTile<T>* out) {
    DotOffsetE2m1(codes, x, b, out);
  }
};

}  // namespace
}  // namespace moepool
