// Elementary arithmetic of device kernels, step by step that of the CPU's (common/kernels/cpu/generic.h,
// common/base/math.cc), so that both give the same bits.
#pragma once

#include "common/base/exp_constants.h"
#include "common/kernels/cuda/simt.h"

namespace moepool {
namespace {

constexpr float kLargestCode = 127.0f;
constexpr float kSmallestMaximum = 1e-30f;  // of a block of activations; below it the scale is 0

SIMT_DEVICE uint32_t Magnitude(float x) { return simt::FloatBits(x) & 0x7fffffffu; }
SIMT_DEVICE bool IsFinite(float x) { return Magnitude(x) < 0x7f800000u; }

SIMT_DEVICE float HalfToFloat(uint16_t h) { return simt::HalfToFloat(h); }
SIMT_DEVICE uint16_t FloatToHalf(float x) { return simt::FloatToHalf(x); }
SIMT_DEVICE float Bf16ToFloat(uint16_t h) { return simt::BitsFloat(static_cast<uint32_t>(h) << 16); }
// As F32ToBF16 of generic.h.
SIMT_DEVICE uint16_t FloatToBf16(float x) {
  const uint32_t bits = simt::FloatBits(x);
  const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>(Magnitude(x) > 0x7f800000u ? bits >> 16 | 0x40u : rounded);
}

// Nearest even within ±127; |x| < 2^21.
SIMT_DEVICE int RoundToCode(float x) {
  const int n = static_cast<int32_t>(simt::FloatBits(x + kExpRoundMagic) - simt::FloatBits(kExpRoundMagic));
  return n > 127 ? 127 : n < -127 ? -127 : n;
}

// As Exp() of common/base/math.h.
SIMT_DEVICE float DeviceExp(float x) {
  if (x != x) return x;
  if (x > kExpOverflow) return simt::BitsFloat(0x7f800000u);
  if (x <= kExpUnderflow) return 0;
  const float shifted = simt::Fma(x, kExpLog2e, kExpRoundMagic);
  const int32_t n = static_cast<int32_t>(simt::FloatBits(shifted) - simt::FloatBits(kExpRoundMagic));
  const float rounded = shifted - kExpRoundMagic;
  float r = simt::Fma(-rounded, kExpLn2Hi, x);
  r = simt::Fma(-rounded, kExpLn2Lo, r);
  constexpr float c0 = kExpPolynomial[0], c1 = kExpPolynomial[1], c2 = kExpPolynomial[2];
  constexpr float c3 = kExpPolynomial[3], c4 = kExpPolynomial[4];
  float p = simt::Fma(c4, r, c3);
  p = simt::Fma(p, r, c2);
  p = simt::Fma(p, r, c1);
  p = simt::Fma(p, r, c0);
  p = simt::Fma(p, r * r, r) + 1.0f;
  // 2^n in two factors: results under 2^-126 are rounded once, and n = 128 does not overflow early.
  const int32_t half = n >> 1;
  const float scale0 = simt::BitsFloat(static_cast<uint32_t>(half + 127) << 23);
  const float scale1 = simt::BitsFloat(static_cast<uint32_t>(n - half + 127) << 23);
  return p * scale0 * scale1;
}

// As the tree of generic.h over 16 partial sums.
SIMT_DEVICE float TreeSum16(const float* lane) {
  float s[8];
  SIMT_UNROLL
  for (int i = 0; i < 8; ++i) s[i] = lane[i] + lane[i + 8];
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
  SIMT_UNROLL
  for (int i = 0; i < 2; ++i) s[i] += s[i + 2];
  return s[0] + s[1];
}

}  // namespace
}  // namespace moepool
