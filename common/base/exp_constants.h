// Constants of Exp(): the scalar form (math.cc) and its SIMD twins (common/kernels/cpu) share them to agree
// bit for bit.
//   n = nearest(x log2(e));  r = x - n ln2;  e^x = 2^n (1 + r + r^2 P(r)),  |r| <= ln2 / 2.
#pragma once

namespace moepool {

inline constexpr float kExpLog2e = 0x1.715476p+0f;
inline constexpr float kExpRoundMagic =
    12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, nearest even
inline constexpr float kExpLn2Hi = 0x1.62e400p-1f;  // 16 bits: n ln2_hi is exact
inline constexpr float kExpLn2Lo = 0x1.7f7d1cp-20f;
inline constexpr float kExpOverflow = 88.72f;    // above: +inf
inline constexpr float kExpUnderflow = -104.0f;  // at and below: 0
// Least-maximum fit of (e^r - 1 - r) / r^2; relative error of e^r under 4e-9 before rounding.
inline constexpr float kExpPolynomial[5] = {0x1.fffffcp-2f, 0x1.555490p-3f, 0x1.5558f6p-5f, 0x1.123a8ep-7f,
                                            0x1.6a2314p-10f};

}  // namespace moepool
