// The scales of each format: from what its sums start and how a block's sums of code * x join the
// accumulator. For AVX-512 VNNI files alone.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx512_codes.h"
#include "common/kernels/cpu/block_cursor.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

inline __m512 LoadHalf16(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline __m512 LoadBytes16(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
// acc = fma(float(sum), scale * d_x, acc)
inline __m512 AddScaled(__m512 acc, __m512 sum, __m512 scale, const ActivationBlock& x) {
  return _mm512_fmadd_ps(sum, _mm512_mul_ps(scale, _mm512_set1_ps(x.scale)), acc);
}

struct VnniHalfPlane {
  static constexpr int kBytes = 32;
  static __m512 Load16(const uint8_t* scales) { return LoadHalf16(scales); }
};
// As HalvedE8m0().
struct VnniE8m0Plane {
  static constexpr int kBytes = 16;
  static __m512 Load16(const uint8_t* scales) {
    const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
    const __m512i bits = _mm512_max_epi32(_mm512_slli_epi32(bytes, 23), _mm512_set1_epi32(0x00400000));
    return _mm512_mul_ps(_mm512_castsi512_ps(bits), _mm512_set1_ps(0.5f));
  }
};

// One scale; codes stand for code - 2^kOffsetBits.
template <typename CodesOf, int kOffsetBits, typename Plane = VnniHalfPlane>
struct Vnni1Scale {
  using Codes = CodesOf;
  static constexpr int kCodes = Codes::kBytes, kScales = Plane::kBytes, kSupers = 0;
  static constexpr bool kHalves = false;
  struct Scales {
    __m512 d;
  };
  static Scales Load(const BlockBytes& w) { return {Plane::Load16(w.scales)}; }
  static __m512i Start(const ActivationBlock& x) {
    return _mm512_slli_epi32(_mm512_set1_epi32(x.neg_sum), kOffsetBits);
  }
  static __m512 Add(__m512 acc, __m512i sum, const Scales& w, const ActivationBlock& x) {
    return AddScaled(acc, _mm512_cvtepi32_ps(sum), w.d, x);
  }
};
using VnniQ4_0 = Vnni1Scale<NibbleCodes, 3>;
using VnniQ5_0 = Vnni1Scale<FiveBitCodes, 4>;
using VnniQ8_0 = Vnni1Scale<OffsetByteCodes, 7>;
using VnniIQ4_NL = Vnni1Scale<OffsetNonLinearCodes, 7>;
using VnniMXFP4 = Vnni1Scale<OffsetE2m1Codes, 4, VnniE8m0Plane>;

struct ScaleAndMin {
  __m512 scale;
  __m512 min;
};

// f16 scale and minimum.
template <typename CodesOf>
struct VnniScaleAndMin {
  using Codes = CodesOf;
  static constexpr int kCodes = Codes::kBytes, kScales = 64, kSupers = 0;
  static constexpr bool kHalves = false;
  using Scales = ScaleAndMin;
  static Scales Load(const BlockBytes& w) { return {LoadHalf16(w.scales), LoadHalf16(w.scales + 32)}; }
  static __m512i Start(const ActivationBlock&) { return _mm512_setzero_si512(); }
  static __m512 Add(__m512 acc, __m512i sum, const Scales& w, const ActivationBlock& x) {
    return _mm512_fmadd_ps(w.min, _mm512_set1_ps(x.scaled_sum),
                           AddScaled(acc, _mm512_cvtepi32_ps(sum), w.scale, x));
  }
};
using VnniQ4_1 = VnniScaleAndMin<NibbleCodes>;
using VnniQ5_1 = VnniScaleAndMin<FiveBitCodes>;

// Small integer scale and minimum under d and dmin.
template <typename CodesOf>
struct VnniSuperScaleAndMin {
  using Codes = CodesOf;
  static constexpr int kCodes = Codes::kBytes, kScales = 32, kSupers = 64;
  static constexpr bool kHalves = false;
  using Scales = ScaleAndMin;
  static Scales Load(const BlockBytes& w) {
    return {_mm512_mul_ps(LoadHalf16(w.supers), LoadBytes16(w.scales)),
            _mm512_mul_ps(LoadHalf16(w.supers + 32), LoadBytes16(w.scales + 16))};
  }
  static __m512i Start(const ActivationBlock&) { return _mm512_setzero_si512(); }
  static __m512 Add(__m512 acc, __m512i sum, const Scales& w, const ActivationBlock& x) {
    return _mm512_fnmadd_ps(w.min, _mm512_set1_ps(x.scaled_sum),
                            AddScaled(acc, _mm512_cvtepi32_ps(sum), w.scale, x));
  }
};
using VnniQ4_K = VnniSuperScaleAndMin<NibbleCodes>;
using VnniQ5_K = VnniSuperScaleAndMin<FiveBitCodes>;

// float(sc0 s0 + sc1 s1): each product and the sum are integers below 2^24 (scalar_matmul.h), so the float
// operations are exact; adding to +0 makes an empty sum +0, as an integer's is.
inline __m512 ScaleHalves(__m512i s0, __m512i s1, __m512 sc0, __m512 sc1) {
  const __m512 first = _mm512_fmadd_ps(_mm512_cvtepi32_ps(s0), sc0, _mm512_setzero_ps());
  return _mm512_fmadd_ps(_mm512_cvtepi32_ps(s1), sc1, first);
}

struct HalfScales {
  __m512 sc0;
  __m512 sc1;
  __m512 d;
};

// A signed scale for each 16 columns under d; codes stand for code - 2^kOffsetBits.
template <typename CodesOf, int kOffsetBits>
struct VnniHalfScales {
  using Codes = CodesOf;
  static constexpr int kCodes = Codes::kBytes, kScales = 32, kSupers = 32;
  static constexpr bool kHalves = true;
  using Scales = HalfScales;
  static Scales Load(const BlockBytes& w) {
    const __m512i both = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.scales)));
    return {_mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(both, 16), 16)),
            _mm512_cvtepi32_ps(_mm512_srai_epi32(both, 16)), LoadHalf16(w.supers)};
  }
  // The pair of sums as one 32-bit word.
  static __m512i Pair(const ActivationBlock& x) {
    int32_t pair;
    __builtin_memcpy(&pair, x.neg_half_sums, sizeof pair);
    return _mm512_set1_epi32(pair);
  }
  static __m512i Start0(const ActivationBlock& x) {
    return _mm512_srai_epi32(_mm512_slli_epi32(Pair(x), 16), 16 - kOffsetBits);
  }
  static __m512i Start1(const ActivationBlock& x) {
    return _mm512_slli_epi32(_mm512_srai_epi32(Pair(x), 16), kOffsetBits);
  }
  static __m512 Add(__m512 acc, __m512i s0, __m512i s1, const Scales& w, const ActivationBlock& x) {
    return AddScaled(acc, ScaleHalves(s0, s1, w.sc0, w.sc1), w.d, x);
  }
};
using VnniQ6_K = VnniHalfScales<SixBitCodes, 5>;
using VnniQ3_K = VnniHalfScales<ThreeBitCodes, 2>;

// A scale and a minimum of 4 bits for each 16 columns under d and dmin.
struct VnniQ2_K {
  using Codes = TwoBitCodes;
  static constexpr int kCodes = Codes::kBytes, kScales = 32, kSupers = 64;
  static constexpr bool kHalves = true;
  struct Scales {
    __m512 sc0;
    __m512 sc1;
    __m512 d;
    __m512 dmin;
    __m512i mins;  // 16 bits, [16 rows][2 halves]
  };
  static Scales Load(const BlockBytes& w) {
    const __m512i both = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w.scales)));
    const __m512i mask = _mm512_set1_epi32(15);
    return {_mm512_cvtepi32_ps(_mm512_and_si512(both, mask)),
            _mm512_cvtepi32_ps(_mm512_and_si512(_mm512_srli_epi32(both, 16), mask)), LoadHalf16(w.supers),
            LoadHalf16(w.supers + 32), _mm512_srli_epi16(both, 4)};
  }
  static __m512i Start0(const ActivationBlock&) { return _mm512_setzero_si512(); }
  static __m512i Start1(const ActivationBlock&) { return _mm512_setzero_si512(); }
  static __m512 Add(__m512 acc, __m512i s0, __m512i s1, const Scales& w, const ActivationBlock& x) {
    acc = AddScaled(acc, ScaleHalves(s0, s1, w.sc0, w.sc1), w.d, x);
    int32_t pair;
    __builtin_memcpy(&pair, x.neg_half_sums, sizeof pair);
    const __m512i neg_min = _mm512_madd_epi16(w.mins, _mm512_set1_epi32(pair));
    return AddScaled(acc, _mm512_cvtepi32_ps(neg_min), w.dmin, x);
  }
};

}  // namespace
}  // namespace moepool
