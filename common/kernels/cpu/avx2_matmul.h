// Matrix products with AVX2. A register holds 8 rows x 4 columns of codes; a token's 4 columns are broadcast
// to all rows, and VPMADDUBSW multiplies 32 pairs. A tile is 16 rows x up to 4 tokens: at 4 the 8 integer
// accumulators, 4 registers of codes, a mask and a broadcast fit the 16 registers, and unpacking a block is
// shared by 4 tokens. The float accumulators rest on the stack, touched once a block.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

// The tokens of one tile, at one block.
template <int T>
struct TileRows {
  const int8_t* q[T];
  const float* scale[T];
  const int16_t* half_sums[T];
  const float* scaled_sums[T];
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
    const __m256 factor = _mm256_mul_ps(scale, _mm256_broadcast_ss(x.scale[t] + b));
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
      const int8_t* const q = x.q[t] + kQuantBlock * b + 4 * v;
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

// Bytes of one group's planes at one block.
struct BlockBytes {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* supers;
};

struct Avx2Q4_0 {
  static constexpr int kCodes = 256, kScales = 32, kSupers = 0;
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    DotNibbles(w.codes, x, b, &ints);
    for (int t = 0; t < T; ++t) {  // codes stand for code - 8
      const int16_t* const halves = x.half_sums[t] + 2 * b;
      const __m256i offset = _mm256_set1_epi32(8 * (halves[0] + halves[1]));
      ints.sum[t][0] = _mm256_sub_epi32(ints.sum[t][0], offset);
      ints.sum[t][1] = _mm256_sub_epi32(ints.sum[t][1], offset);
    }
    for (int h = 0; h < 2; ++h) AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
  }
};

struct Avx2Q4_1 {
  static constexpr int kCodes = 256, kScales = 64, kSupers = 0;
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    DotNibbles(w.codes, x, b, &ints);
    for (int h = 0; h < 2; ++h) {
      AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
      const __m256 min = LoadHalf8(w.scales + 32 + 16 * h);
      for (int t = 0; t < T; ++t) {
        f->acc[t][h] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(x.scaled_sums[t] + b), f->acc[t][h]);
      }
    }
  }
};

struct Avx2Q4_K {
  static constexpr int kCodes = 256, kScales = 32, kSupers = 64;
  static __m256 SmallInts(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    DotNibbles(w.codes, x, b, &ints);
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = _mm256_mul_ps(LoadHalf8(w.supers + 16 * h), SmallInts(w.scales + 8 * h));
      AddScaled(ints, h, scale, x, b, f);
      const __m256 min = _mm256_mul_ps(LoadHalf8(w.supers + 32 + 16 * h), SmallInts(w.scales + 16 + 8 * h));
      for (int t = 0; t < T; ++t) {
        f->acc[t][h] = _mm256_fnmadd_ps(min, _mm256_broadcast_ss(x.scaled_sums[t] + b), f->acc[t][h]);
      }
    }
  }
};

struct Avx2Q8_0 {
  static constexpr int kCodes = 512, kScales = 32, kSupers = 0;
  // |w| * (x with w's sign). |-128| is 128 as an unsigned byte, so a pair is at most 2 * 128 * 127 = 32512:
  // no saturation, but two pairs would be one, hence VPMADDWD for each.
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    const __m256i ones = _mm256_set1_epi16(1);
    IntTile<T> ints;
    for (int t = 0; t < T; ++t) ints.sum[t][0] = ints.sum[t][1] = _mm256_setzero_si256();
    for (int quad = 0; quad < 8; ++quad) {
      const __m256i c0 = Load32(w.codes + 64 * quad);
      const __m256i c1 = Load32(w.codes + 64 * quad + 32);
      const __m256i abs0 = _mm256_abs_epi8(c0);
      const __m256i abs1 = _mm256_abs_epi8(c1);
      for (int t = 0; t < T; ++t) {
        const __m256i v = Broadcast4(x.q[t] + kQuantBlock * b + 4 * quad);
        const __m256i p0 = _mm256_maddubs_epi16(abs0, _mm256_sign_epi8(v, c0));
        const __m256i p1 = _mm256_maddubs_epi16(abs1, _mm256_sign_epi8(v, c1));
        ints.sum[t][0] = _mm256_add_epi32(ints.sum[t][0], _mm256_madd_epi16(p0, ones));
        ints.sum[t][1] = _mm256_add_epi32(ints.sum[t][1], _mm256_madd_epi16(p1, ones));
      }
    }
    for (int h = 0; h < 2; ++h) AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
  }
};

struct Avx2Q6_K {
  static constexpr int kCodes = 384, kScales = 32, kSupers = 32;
  // Codes of 6 bits: a pair is at most 2 * 63 * 127 = 16002, two are 32004: no saturation. VPMADDWD by the
  // half's scale in both 16-bit lanes then applies it; the code's offset of 32 is taken off by 32 (sc0 * sum
  // x over half 0 + sc1 * sum x over half 1).
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    const __m256i mask4 = _mm256_set1_epi8(15);
    const __m256i mask2 = _mm256_set1_epi8(0x30);
    IntTile<T> ints;
    for (int h = 0; h < 2; ++h) {
      const __m256i scales =
          _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.scales + 16 * h)));
      for (int t = 0; t < T; ++t) {
        const __m256i offset = _mm256_madd_epi16(scales, Broadcast4(x.half_sums[t] + 2 * b));
        ints.sum[t][h] = _mm256_sub_epi32(_mm256_setzero_si256(), _mm256_slli_epi32(offset, 5));
      }
      const __m256i scale0 = _mm256_blend_epi16(scales, _mm256_slli_epi32(scales, 16), 0xAA);
      const __m256i scale1 = _mm256_blend_epi16(scales, _mm256_srli_epi32(scales, 16), 0x55);
      const __m256i top0 = Load32(w.codes + 256 + 32 * h);       // high bits of quads 0, 2, 4, 6
      const __m256i top1 = Load32(w.codes + 256 + 64 + 32 * h);  // of quads 1, 3, 5, 7
      for (int v = 0; v < 4; v += 2) {
        const __m256i c0 = Load32(w.codes + 64 * v + 32 * h);
        const __m256i c1 = Load32(w.codes + 64 * (v + 1) + 32 * h);
        // Quads v, v + 1 (bits 2 (v / 2)) and v + 4, v + 5 (bits 4 + 2 (v / 2)), brought to bits 4 and 5.
        const __m256i a0 = v == 0 ? _mm256_slli_epi16(top0, 4) : _mm256_slli_epi16(top0, 2);
        const __m256i a1 = v == 0 ? _mm256_slli_epi16(top1, 4) : _mm256_slli_epi16(top1, 2);
        const __m256i b0 = v == 0 ? top0 : _mm256_srli_epi16(top0, 2);
        const __m256i b1 = v == 0 ? top1 : _mm256_srli_epi16(top1, 2);
        const __m256i low0 = _mm256_or_si256(_mm256_and_si256(c0, mask4), _mm256_and_si256(a0, mask2));
        const __m256i low1 = _mm256_or_si256(_mm256_and_si256(c1, mask4), _mm256_and_si256(a1, mask2));
        const __m256i high0 =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c0, 4), mask4), _mm256_and_si256(b0, mask2));
        const __m256i high1 =
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(c1, 4), mask4), _mm256_and_si256(b1, mask2));
        for (int t = 0; t < T; ++t) {
          const int8_t* const q = x.q[t] + kQuantBlock * b + 4 * v;
          const __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(low0, Broadcast4(q)),
                                             _mm256_maddubs_epi16(low1, Broadcast4(q + 4)));
          const __m256i r = _mm256_add_epi16(_mm256_maddubs_epi16(high0, Broadcast4(q + 16)),
                                             _mm256_maddubs_epi16(high1, Broadcast4(q + 20)));
          ints.sum[t][h] = _mm256_add_epi32(
              ints.sum[t][h], _mm256_add_epi32(_mm256_madd_epi16(p, scale0), _mm256_madd_epi16(r, scale1)));
        }
      }
      AddScaled(ints, h, LoadHalf8(w.supers + 16 * h), x, b, f);
    }
  }
};

// Twice to three times the bytes a second from memory (10 to 28 GB/s a core for Q4_1); 2 and 8 KiB gain less.
constexpr int64_t kPrefetchBytes = 4096;

template <typename Format, int T>
void QuantizedTile(const PackedWeights& w, const uint8_t* group, const ActivationRows& x, int64_t token,
                   float* out, int64_t out_stride) {
  TileRows<T> rows;
  FloatTile<T> tile;
  const int64_t row_blocks = x.cols / kQuantBlock;
  for (int t = 0; t < T; ++t) {
    const int64_t row = x.index[token + t];
    rows.q[t] = x.q + row * x.cols;
    rows.scale[t] = x.scale + row * row_blocks;
    rows.half_sums[t] = x.half_sums + 2 * row * row_blocks;
    rows.scaled_sums[t] = x.scaled_sums + row * row_blocks;
    tile.acc[t][0] = tile.acc[t][1] = _mm256_setzero_ps();
  }
  // One token reads weights from memory, and the work of a block fills the out-of-order window before the
  // loads of the next start: ask for them a few blocks ahead. A block's share of the group covers its scales,
  // which lie after all codes.
  const int64_t ahead_bytes = w.blocks > 0 ? w.group_bytes / w.blocks : 0;
  const uint8_t* ahead = group + kPrefetchBytes;
  BlockBytes block = {group, group + w.scales_offset, group + w.supers_offset};
  for (int64_t b = 0; b < w.blocks; ++b) {
    if constexpr (T == 1) {
      for (int64_t i = 0; i < ahead_bytes; i += 64)
        _mm_prefetch(reinterpret_cast<const char*>(ahead + i), _MM_HINT_T0);
      ahead += ahead_bytes;
    }
    Format::Step(block, rows, b, &tile);
    block.codes += Format::kCodes;
    block.scales += Format::kScales;
    if constexpr (Format::kSupers != 0) {
      if (((w.first_sub_block + b + 1) & 7) == 0) block.supers += Format::kSupers;
    }
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
