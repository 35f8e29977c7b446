// AVX2 products of the formats with one scale (and minimum) per 32 columns.
#pragma once

#include "common/kernels/cpu/avx2_tile.h"

namespace moepool {
namespace {

// Scales of rows 8 h to 8 h + 7.
struct Avx2HalfScales {
  static constexpr int kBytes = 32;
  static __m256 Load8(const uint8_t* scales, int h) { return LoadHalf8(scales + 16 * h); }
};
// As HalvedE8m0().
struct Avx2E8m0Scales {
  static constexpr int kBytes = 16;
  static __m256 Load8(const uint8_t* scales, int h) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales + 8 * h));
    const __m256i bits = _mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 23);
    const __m256i least = _mm256_set1_epi32(0x00400000);
    return _mm256_mul_ps(_mm256_castsi256_ps(_mm256_max_epi32(bits, least)), _mm256_set1_ps(0.5f));
  }
};

// Codes stand for code - kOffset.
template <typename Codes, int kOffset, typename ScalesOf = Avx2HalfScales>
struct Avx2Scaled {
  static constexpr int kCodes = Codes::kBytes, kScales = ScalesOf::kBytes, kSupers = 0;
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    Codes::Dot(w.codes, x, b, &ints);
    for (int t = 0; t < T; ++t) {
      const __m256i offset = _mm256_set1_epi32(kOffset * x.row[t][b].neg_sum);
      ints.sum[t][0] = _mm256_add_epi32(ints.sum[t][0], offset);
      ints.sum[t][1] = _mm256_add_epi32(ints.sum[t][1], offset);
    }
    for (int h = 0; h < 2; ++h) AddScaled(ints, h, ScalesOf::Load8(w.scales, h), x, b, f);
  }
};

using Avx2Q4_0 = Avx2Scaled<NibbleCodes, 8>;
using Avx2Q5_0 = Avx2Scaled<FiveBitCodes, 16>;
using Avx2MXFP4 = Avx2Scaled<OffsetE2m1Codes, 12, Avx2E8m0Scales>;

template <typename Codes>
struct Avx2ScaledWithMin {
  static constexpr int kCodes = Codes::kBytes, kScales = 64, kSupers = 0;
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    IntTile<T> ints;
    Codes::Dot(w.codes, x, b, &ints);
    for (int h = 0; h < 2; ++h) {
      AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
      const __m256 min = LoadHalf8(w.scales + 32 + 16 * h);
      for (int t = 0; t < T; ++t) {
        f->acc[t][h] = _mm256_fmadd_ps(min, _mm256_broadcast_ss(&x.row[t][b].scaled_sum), f->acc[t][h]);
      }
    }
  }
};
using Avx2Q4_1 = Avx2ScaledWithMin<NibbleCodes>;
using Avx2Q5_1 = Avx2ScaledWithMin<FiveBitCodes>;

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
        const __m256i v = Broadcast4(x.row[t][b].q + 4 * quad);
        const __m256i p0 = _mm256_maddubs_epi16(abs0, _mm256_sign_epi8(v, c0));
        const __m256i p1 = _mm256_maddubs_epi16(abs1, _mm256_sign_epi8(v, c1));
        ints.sum[t][0] = _mm256_add_epi32(ints.sum[t][0], _mm256_madd_epi16(p0, ones));
        ints.sum[t][1] = _mm256_add_epi32(ints.sum[t][1], _mm256_madd_epi16(p1, ones));
      }
    }
    for (int h = 0; h < 2; ++h) AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
  }
};

struct Avx2IQ4_NL {
  static constexpr int kCodes = 256, kScales = 32, kSupers = 0;
  // VPSHUFB looks the codes up; then as Q8_0: a pair is at most 2 * 127 * 127 = 32258. 8 rows at a time, as
  // the codes of a vector are two registers and their magnitudes two more.
  template <int T>
  static void Step(const BlockBytes& w, const TileRows<T>& x, int64_t b, FloatTile<T>* f) {
    const __m256i values =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4NlValues)));
    const __m256i mask = _mm256_set1_epi8(15);
    const __m256i ones = _mm256_set1_epi16(1);
    IntTile<T> ints;
    for (int h = 0; h < 2; ++h) {
      __m256i sum[T];
      for (int t = 0; t < T; ++t) sum[t] = _mm256_setzero_si256();
#pragma GCC unroll 1
      for (int v = 0; v < 4; ++v) {
        const __m256i c = Load32(w.codes + 64 * v + 32 * h);
        const __m256i low = _mm256_shuffle_epi8(values, _mm256_and_si256(c, mask));
        const __m256i high = _mm256_shuffle_epi8(values, _mm256_and_si256(_mm256_srli_epi16(c, 4), mask));
        const __m256i abs_low = _mm256_abs_epi8(low);
        const __m256i abs_high = _mm256_abs_epi8(high);
        for (int t = 0; t < T; ++t) {
          const int8_t* const q = x.row[t][b].q + 4 * v;
          const __m256i p = _mm256_maddubs_epi16(abs_low, _mm256_sign_epi8(Broadcast4(q), low));
          const __m256i r = _mm256_maddubs_epi16(abs_high, _mm256_sign_epi8(Broadcast4(q + 16), high));
          sum[t] = _mm256_add_epi32(sum[t],
                                    _mm256_add_epi32(_mm256_madd_epi16(p, ones), _mm256_madd_epi16(r, ones)));
        }
      }
      for (int t = 0; t < T; ++t) ints.sum[t][h] = sum[t];
      AddScaled(ints, h, LoadHalf8(w.scales + 16 * h), x, b, f);
    }
  }
};

}  // namespace
}  // namespace moepool
