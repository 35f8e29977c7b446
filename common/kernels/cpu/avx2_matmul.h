// Matrix products with AVX2. A register holds 8 rows x 4 columns of codes; a token's 4 columns are broadcast
// to all rows, and VPMADDUBSW multiplies 32 pairs. A tile is 16 rows x up to 4 tokens: at 4 the 8 integer
// accumulators, 4 registers of codes, a mask and a broadcast fit the 16 registers, and unpacking a block is
// shared by 4 tokens. The float accumulators rest on the stack, touched once a block.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx2_blocks.h"
#include "common/kernels/cpu/avx2_k_quants.h"
#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/cpu/avx2_tile.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

// Twice to three times the bytes a second from memory (10 to 28 GB/s a core for Q4_1); 2 and 8 KiB gain less.
constexpr int64_t kPrefetchBytes = 4096;

template <typename Format, int T>
void QuantizedTile(const PackedWeights& w, const uint8_t* group, const ActivationRows& x, int64_t token,
                   float* out, int64_t out_stride) {
  TileRows<T> rows;
  FloatTile<T> tile;
  const int64_t row_blocks = x.cols / kQuantBlock;
  for (int t = 0; t < T; ++t) {
    rows.row[t] = x.blocks + x.index[token + t] * row_blocks;
    tile.acc[t][0] = tile.acc[t][1] = _mm256_setzero_ps();
  }
  // One token reads weights from memory, and the work of a block fills the out-of-order window before the
  // loads of the next start: ask for them a few blocks ahead.
  constexpr int64_t kBlockBytes = Format::kScales + Format::kCodes;
  BlockCursor<Format> cursor(group, w.first_sub_block);
  for (int64_t b = 0; b < w.blocks; ++b) {
    const BlockBytes block = cursor.Next();
    if constexpr (T == 1) {
      for (int64_t i = 0; i < kBlockBytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(block.scales + kPrefetchBytes + i), _MM_HINT_T0);
      }
    }
    Format::Step(block, rows, b, &tile);
  }
  for (int t = 0; t < T; ++t) {
    _mm256_storeu_ps(out + (token + t) * out_stride, tile.acc[t][0]);
    _mm256_storeu_ps(out + (token + t) * out_stride + 8, tile.acc[t][1]);
  }
}

template <typename Format>
void QuantizedMatMul(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                     float* out, int64_t out_stride) {
  for (int64_t g = group_begin; g < group_end; ++g, out += kGroupRows) {
    const uint8_t* const group = w.data + g * w.group_bytes;
    int64_t t = 0;
    for (; t + 4 <= x.count; t += 4) QuantizedTile<Format, 4>(w, group, x, t, out, out_stride);
    if (x.count - t == 3) QuantizedTile<Format, 3>(w, group, x, t, out, out_stride);
    if (x.count - t == 2) QuantizedTile<Format, 2>(w, group, x, t, out, out_stride);
    if (x.count - t == 1) QuantizedTile<Format, 1>(w, group, x, t, out, out_stride);
  }
}

// --- F32, F16, BF16: one column of 8 rows ---

struct PlainF32 {
  static constexpr int kBytes = 4;
  static __m256 Load(const uint8_t* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
};
struct PlainF16 {
  static constexpr int kBytes = 2;
  static __m256 Load(const uint8_t* p) { return LoadHalf8(p); }
};
struct PlainBF16 {
  static constexpr int kBytes = 2;
  static __m256 Load(const uint8_t* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
};

// G groups x T tokens: 2 G T independent chains of fma, 8 where that can be, against a latency of 4 and 2 a
// cycle.
template <typename Format, int G, int T>
void PlainTile(const PackedWeights& w, int64_t g, const ActivationRows& x, int64_t token, float* out,
               int64_t out_stride) {
  const float* row[T];
  __m256 acc[G][T][2];
  for (int t = 0; t < T; ++t) {
    row[t] = x.f32 + x.index[token + t] * x.cols;
    for (int i = 0; i < G; ++i) acc[i][t][0] = acc[i][t][1] = _mm256_setzero_ps();
  }
  const uint8_t* p = w.data + g * w.group_bytes;
  for (int64_t c = 0; c < w.blocks; ++c, p += kGroupRows * Format::kBytes) {
    for (int i = 0; i < G; ++i) {
      const __m256 w0 = Format::Load(p + i * w.group_bytes);
      const __m256 w1 = Format::Load(p + i * w.group_bytes + 8 * Format::kBytes);
      for (int t = 0; t < T; ++t) {
        const __m256 v = _mm256_broadcast_ss(row[t] + c);
        acc[i][t][0] = _mm256_fmadd_ps(w0, v, acc[i][t][0]);
        acc[i][t][1] = _mm256_fmadd_ps(w1, v, acc[i][t][1]);
      }
    }
  }
  for (int i = 0; i < G; ++i) {
    for (int t = 0; t < T; ++t) {
      float* const y = out + (token + t) * out_stride + i * kGroupRows;
      _mm256_storeu_ps(y, acc[i][t][0]);
      _mm256_storeu_ps(y + 8, acc[i][t][1]);
    }
  }
}

template <typename Format, int G>
void PlainGroups(const PackedWeights& w, int64_t g, const ActivationRows& x, float* out, int64_t out_stride) {
  int64_t t = 0;
  if constexpr (G == 1) {
    for (; t + 4 <= x.count; t += 4) PlainTile<Format, 1, 4>(w, g, x, t, out, out_stride);
  }
  for (; t + 2 <= x.count; t += 2) PlainTile<Format, G, 2>(w, g, x, t, out, out_stride);
  for (; t < x.count; ++t) PlainTile<Format, G, 1>(w, g, x, t, out, out_stride);
}

template <typename Format>
void PlainMatMul(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                 float* out, int64_t out_stride) {
  int64_t g = group_begin;
  if (x.count == 1) {
    for (; g + 4 <= group_end; g += 4, out += 4 * kGroupRows)
      PlainTile<Format, 4, 1>(w, g, x, 0, out, out_stride);
  } else if (x.count < 4) {
    for (; g + 2 <= group_end; g += 2, out += 2 * kGroupRows)
      PlainGroups<Format, 2>(w, g, x, out, out_stride);
  }
  for (; g < group_end; ++g, out += kGroupRows) PlainGroups<Format, 1>(w, g, x, out, out_stride);
}

}  // namespace
}  // namespace moepool
