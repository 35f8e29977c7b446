// AVX2 products of the K-quants: small integer scales per 16 or 32 columns under f16 scales per 256.
#pragma once

#include "common/kernels/cpu/avx2_tile.h"

namespace moepool {
namespace {

// A scale and a minimum per 32 columns.
template <typename Codes>
struct Avx2SuperScaledWithMin {
  static constexpr int kCodes = Codes::kBytes, kScales = 32, kSupers = 64;
  static __m256 SmallInts(const uint8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    Codes::Dot(w.codes, x, b, &ints);
    for (int h = 0; h < 2; ++h) {
      const __m256 scale = _mm256_mul_ps(LoadHalf8(w.supers + 16 * h), SmallInts(w.scales + 8 * h));
      AddScaled(ints, h, scale, x, b, f);
      const __m256 min = _mm256_mul_ps(LoadHalf8(w.supers + 32 + 16 * h), SmallInts(w.scales + 16 + 8 * h));
      for (int t = 0; t < T; ++t) {
        f->acc[t][h] = _mm256_fnmadd_ps(min, _mm256_broadcast_ss(&x.row[t][b].scaled_sum), f->acc[t][h]);
      }
    }
  }
};
using Avx2Q4_K = Avx2SuperScaledWithMin<NibbleCodes>;
using Avx2Q5_K = Avx2SuperScaledWithMin<FiveBitCodes>;

// Scales of 16 columns, [8 rows][2 halves] in 16 bits, as factors of VPMADDWD for the sums of one half: the
// half's scale in both lanes of its row.
struct HalfFactors {
  __m256i half[2];
};
inline HalfFactors SpreadHalves(__m256i scales) {
  return {{_mm256_blend_epi16(scales, _mm256_slli_epi32(scales, 16), 0xAA),
           _mm256_blend_epi16(scales, _mm256_srli_epi32(scales, 16), 0x55)}};
}

// ints += factor * (sum over the 16 columns of a half of code * x), for 8 rows and codes of at most 3 bits in
// 4 quads: a 16-bit lane adds 4 pairs of at most 2 * 7 * 127 = 1778, 7112 in all.
template <int T>
inline void AddHalf(const __m256i (&codes)[4], __m256i factor, const TileRows<T>& x, int64_t b, int column,
                    int h, IntTile<T>* ints) {
  for (int t = 0; t < T; ++t) {
    const int8_t* const q = x.row[t][b].q + column;
    const __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(codes[0], Broadcast4(q)),
                                       _mm256_maddubs_epi16(codes[1], Broadcast4(q + 4)));
    const __m256i r = _mm256_add_epi16(_mm256_maddubs_epi16(codes[2], Broadcast4(q + 8)),
                                       _mm256_maddubs_epi16(codes[3], Broadcast4(q + 12)));
    ints->sum[t][h] = _mm256_add_epi32(ints->sum[t][h], _mm256_madd_epi16(_mm256_add_epi16(p, r), factor));
  }
}

struct Avx2Q2_K {
  static constexpr int kCodes = 128, kScales = 32, kSupers = 64;
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    const __m256i mask = _mm256_set1_epi8(3);
    IntTile<T> ints;
    for (int h = 0; h < 2; ++h) {
      const __m256i both = _mm256_cvtepu8_epi16(Load16(w.scales + 16 * h));  // scale + 16 min
      const HalfFactors factors = SpreadHalves(_mm256_and_si256(both, _mm256_set1_epi16(15)));
      for (int t = 0; t < T; ++t) ints.sum[t][h] = _mm256_setzero_si256();
      __m256i even = Load32(w.codes + 32 * h);      // quads 0, 2, 4, 6
      __m256i odd = Load32(w.codes + 64 + 32 * h);  // 1, 3, 5, 7
      for (int half = 0; half < 2; ++half) {
        const __m256i codes[4] = {_mm256_and_si256(even, mask), _mm256_and_si256(odd, mask),
                                  _mm256_and_si256(_mm256_srli_epi16(even, 2), mask),
                                  _mm256_and_si256(_mm256_srli_epi16(odd, 2), mask)};
        AddHalf(codes, factors.half[half], x, b, 16 * half, h, &ints);
        even = _mm256_srli_epi16(even, 4);
        odd = _mm256_srli_epi16(odd, 4);
      }
      AddScaled(ints, h, LoadHalf8(w.supers + 16 * h), x, b, f);
      const __m256i mins = _mm256_srli_epi16(both, 4);
      const __m256 min_scale = LoadHalf8(w.supers + 32 + 16 * h);
      for (int t = 0; t < T; ++t) {
        const __m256i sums = _mm256_madd_epi16(mins, Broadcast4(x.row[t][b].neg_half_sums));
        const __m256 factor = _mm256_mul_ps(min_scale, _mm256_broadcast_ss(&x.row[t][b].scale));
        f->acc[t][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), factor, f->acc[t][h]);
      }
    }
  }
};

struct Avx2Q3_K {
  static constexpr int kCodes = 192, kScales = 32, kSupers = 32;
  // The code's offset of 4 is taken off as Q6_K takes off its 32.
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    const __m256i mask = _mm256_set1_epi8(3);
    const __m256i bit2 = _mm256_set1_epi8(4);
    IntTile<T> ints;
    for (int h = 0; h < 2; ++h) {
      const __m256i scales = _mm256_cvtepi8_epi16(Load16(w.scales + 16 * h));
      const HalfFactors factors = SpreadHalves(scales);
      for (int t = 0; t < T; ++t) {
        const __m256i offset = _mm256_madd_epi16(scales, Broadcast4(x.row[t][b].neg_half_sums));
        ints.sum[t][h] = _mm256_slli_epi32(offset, 2);
      }
      __m256i even = Load32(w.codes + 32 * h);       // quads 0, 2, 4, 6
      __m256i odd = Load32(w.codes + 64 + 32 * h);   // 1, 3, 5, 7
      __m256i top = Load32(w.codes + 128 + 32 * h);  // quad i in bit i
      for (int half = 0; half < 2; ++half) {
        const __m256i codes[4] = {
            _mm256_or_si256(_mm256_and_si256(even, mask), _mm256_and_si256(_mm256_slli_epi16(top, 2), bit2)),
            _mm256_or_si256(_mm256_and_si256(odd, mask), _mm256_and_si256(_mm256_slli_epi16(top, 1), bit2)),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(even, 2), mask), _mm256_and_si256(top, bit2)),
            _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(odd, 2), mask),
                            _mm256_and_si256(_mm256_srli_epi16(top, 1), bit2))};
        AddHalf(codes, factors.half[half], x, b, 16 * half, h, &ints);
        even = _mm256_srli_epi16(even, 4);
        odd = _mm256_srli_epi16(odd, 4);
        top = _mm256_srli_epi16(top, 4);
      }
      AddScaled(ints, h, LoadHalf8(w.supers + 16 * h), x, b, f);
    }
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
      const __m256i scales = _mm256_cvtepi8_epi16(Load16(w.scales + 16 * h));
      for (int t = 0; t < T; ++t) {
        const __m256i offset = _mm256_madd_epi16(scales, Broadcast4(x.row[t][b].neg_half_sums));
        ints.sum[t][h] = _mm256_slli_epi32(offset, 5);
      }
      const HalfFactors factors = SpreadHalves(scales);
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
          const int8_t* const q = x.row[t][b].q + 4 * v;
          const __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(low0, Broadcast4(q)),
                                             _mm256_maddubs_epi16(low1, Broadcast4(q + 4)));
          const __m256i r = _mm256_add_epi16(_mm256_maddubs_epi16(high0, Broadcast4(q + 16)),
                                             _mm256_maddubs_epi16(high1, Broadcast4(q + 20)));
          ints.sum[t][h] = _mm256_add_epi32(
              ints.sum[t][h],
              _mm256_add_epi32(_mm256_madd_epi16(p, factors.half[0]), _mm256_madd_epi16(r, factors.half[1])));
        }
      }
      AddScaled(ints, h, LoadHalf8(w.supers + 16 * h), x, b, f);
    }
  }
};

}  // namespace
}  // namespace moepool
