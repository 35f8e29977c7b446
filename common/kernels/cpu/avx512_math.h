// Vector forms of the elementary steps, for AVX-512 files alone (anonymous namespace, as generic.h).
#pragma once

#include <immintrin.h>

#include "common/base/exp_constants.h"
#include "common/kernels/cpu/generic.h"

namespace moepool {
namespace {

inline constexpr __mmask16 kAllLanes = 0xffff;

// Lanes [0, n).
inline __mmask16 FirstLanes(int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }

// body(i, lanes) for each 16 of n. The compiler drops the mask where it is kAllLanes.
template <typename Body>
inline void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) body(i, kAllLanes);
  if (i < n) body(i, FirstLanes(n - i));
}

inline __m512 Load(__mmask16 lanes, const float* p) { return _mm512_maskz_loadu_ps(lanes, p); }
inline void Store(float* p, __mmask16 lanes, __m512 v) { _mm512_mask_storeu_ps(p, lanes, v); }

// Exp() of math.cc in 16 lanes, of which none is past kExpOverflow. The polynomial is the same sequence of
// operations. 2^n is one VSCALEFPS, which rounds once, as the two factors of the scalar form do; what is
// raised to kExpUnderflow rounds to 0. A NaN passes through: VMAXPS returns its second operand.
inline __m512 ExpBelowOverflow(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(kExpUnderflow), x);
  const __m512 magic = _mm512_set1_ps(kExpRoundMagic);
  const __m512 n = _mm512_sub_ps(_mm512_fmadd_ps(x, _mm512_set1_ps(kExpLog2e), magic), magic);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kExpLn2Hi), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(kExpLn2Lo), r);
  __m512 p = _mm512_set1_ps(kExpPolynomial[4]);
  for (int i = 3; i >= 0; --i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExpPolynomial[i]));
  p = _mm512_add_ps(_mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r), _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

inline __m512 Exp16(__m512 x) {
  const __mmask16 over = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpOverflow), _CMP_GT_OQ);
  return _mm512_mask_mov_ps(ExpBelowOverflow(x), over, _mm512_set1_ps(__builtin_inff()));
}

// TreeSum16.
inline float TreeSum(__m512 v) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

}  // namespace
}  // namespace moepool
