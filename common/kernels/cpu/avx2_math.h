// Vector forms of the elementary steps, for AVX2 files alone (anonymous namespace, as generic.h).
#pragma once

#include <immintrin.h>

#include "common/base/exp_constants.h"
#include "common/kernels/cpu/generic.h"

namespace moepool {
namespace {

// Exp() of math.cc in 8 lanes: the same operations in the same order.
inline __m256 Exp8(__m256 x) {
  const __m256 magic = _mm256_set1_ps(kExpRoundMagic);
  const __m256 shifted = _mm256_fmadd_ps(x, _mm256_set1_ps(kExpLog2e), magic);
  const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_castps_si256(magic));
  const __m256 rounded = _mm256_sub_ps(shifted, magic);
  __m256 r = _mm256_fnmadd_ps(rounded, _mm256_set1_ps(kExpLn2Hi), x);
  r = _mm256_fnmadd_ps(rounded, _mm256_set1_ps(kExpLn2Lo), r);
  __m256 p = _mm256_set1_ps(kExpPolynomial[4]);
  for (int i = 3; i >= 0; --i) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(kExpPolynomial[i]));
  p = _mm256_add_ps(_mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r), _mm256_set1_ps(1.0f));
  const __m256i half = _mm256_srai_epi32(n, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i scale0 = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i scale1 = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(n, half), bias), 23);
  p = _mm256_mul_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(scale0)), _mm256_castsi256_ps(scale1));
  // The lanes in which the scalar form returns early.
  const __m256 over = _mm256_cmp_ps(x, _mm256_set1_ps(kExpOverflow), _CMP_GT_OQ);
  const __m256 under = _mm256_cmp_ps(x, _mm256_set1_ps(kExpUnderflow), _CMP_LE_OQ);
  const __m256 nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  p = _mm256_blendv_ps(p, _mm256_set1_ps(__builtin_inff()), over);
  p = _mm256_andnot_ps(under, p);
  return _mm256_blendv_ps(p, x, nan);
}

// One value, by way of the vector form.
inline float Exp1(float x) { return _mm256_cvtss_f32(Exp8(_mm256_set1_ps(x))); }

// TreeSum16 over lanes 0 to 7 (a) and 8 to 15 (b).
inline float TreeSum(__m256 a, __m256 b) {
  const __m256 s8 = _mm256_add_ps(a, b);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

inline __m256 LoadHalf8(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}

inline __m256i Load32(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }

inline __m128i Load16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

inline __m256i Broadcast4(const void* p) {
  int32_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return _mm256_set1_epi32(v);
}

}  // namespace
}  // namespace moepool
