// Products of F32, F16 and BF16 weights with AVX-512: one column of 16 rows a register, times a token's value
// broadcast from memory.
//
// Each lane adds its columns in ascending order, so a tile has as many chains of fma as groups times tokens,
// and needs 8 of them to hide a latency of 4 at 2 a cycle. Loads are 2 a cycle as well: 2 groups x 6 tokens
// load 8 for 12 fma. A single group (a gate of 16 experts) takes 12 tokens at once, 13 loads for 12 fma.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx512_tile.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

constexpr int64_t kPlainAheadBytes = 4096;

struct PlainF32 {
  static constexpr int kBytes = 4;
  static __m512 Load(const uint8_t* p) { return _mm512_loadu_ps(p); }
};
struct PlainF16 {
  static constexpr int kBytes = 2;
  static __m512 Load(const uint8_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
};
struct PlainBF16 {
  static constexpr int kBytes = 2;
  static __m512 Load(const uint8_t* p) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
  }
};

template <typename Format, int G, int T>
inline void PlainTile(const PackedWeights& w, int64_t g, const ActivationRows& x, int64_t token, float* out,
                      int64_t out_stride) {
  constexpr int64_t kColumnBytes = kGroupRows * Format::kBytes;
  const float* row[T];
  __m512 acc[G][T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    row[t] = x.f32 + x.index[token + t] * x.cols;
#pragma GCC unroll 16
    for (int i = 0; i < G; ++i) acc[i][t] = _mm512_setzero_ps();
  }
  const uint8_t* p = w.data + g * w.group_bytes;
  for (int64_t c = 0; c < w.blocks; ++c, p += kColumnBytes) {
    __m512 weights[G];
#pragma GCC unroll 16
    for (int i = 0; i < G; ++i) {
      const uint8_t* const column = p + i * w.group_bytes;
      if constexpr (T <= 4) {  // weights come from memory, more tokens take longer than that
        _mm_prefetch(reinterpret_cast<const char*>(column + kPlainAheadBytes), _MM_HINT_T0);
      }
      weights[i] = Format::Load(column);
    }
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512 v = _mm512_set1_ps(row[t][c]);
#pragma GCC unroll 16
      for (int i = 0; i < G; ++i) acc[i][t] = _mm512_fmadd_ps(weights[i], v, acc[i][t]);
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 16
    for (int i = 0; i < G; ++i) {
      _mm512_storeu_ps(out + (token + t) * out_stride + i * kGroupRows, acc[i][t]);
    }
  }
}

// G groups times all tokens, in tiles of T or nearly as many.
template <typename Format, int G, int T>
inline void PlainGroups(const PackedWeights& w, int64_t g, const ActivationRows& x, float* out,
                        int64_t out_stride) {
  ForTiles<T>(x.count, [&](int64_t begin, auto tokens) {
    PlainTile<Format, G, decltype(tokens)::kValue>(w, g, x, begin, out, out_stride);
  });
}

template <typename Format>
void PlainMatMul(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                 float* out, int64_t out_stride) {
  int64_t g = group_begin;
  if (x.count == 1) {
    for (; g + 4 <= group_end; g += 4, out += 4 * kGroupRows) {
      PlainTile<Format, 4, 1>(w, g, x, 0, out, out_stride);
    }
  }
  for (; g + 2 <= group_end; g += 2, out += 2 * kGroupRows)
    PlainGroups<Format, 2, 6>(w, g, x, out, out_stride);
  if (g < group_end) PlainGroups<Format, 1, 12>(w, g, x, out, out_stride);
}

}  // namespace
}  // namespace moepool
