// Codes of packed.h unpacked to one byte a column, for AVX-512 files alone. Pair<v>, v in [0, 4), makes quad
// v (of columns 0 to 15) and quad v + 4 (of columns 16 to 31); each quad is a vector [16 rows][4 columns].
#pragma once

#include <immintrin.h>

#include "common/base/exp_constants.h"
#include "common/kernels/cpu/generic.h"

namespace moepool {
namespace {

struct QuadPair {
  __m512i low;   // quad v
  __m512i high;  // quad v + 4
};

inline __m512i Load64(const void* p) { return _mm512_loadu_si512(p); }

// (a & mask) | b in one operation.
inline __m512i MaskOr(__m512i a, __m512i mask, __m512i b) {
  return _mm512_ternarylogic_epi32(a, mask, b, 0xEA);
}
// Moves each byte's bits left by n, or right by -n; bits cross into the neighbour and are masked by the
// caller.
template <int n>
inline __m512i Shift(__m512i x) {
  if constexpr (n > 0) {
    return _mm512_slli_epi16(x, n);
  } else if constexpr (n < 0) {
    return _mm512_srli_epi16(x, -n);
  } else {
    return x;
  }
}

inline __m512i NibbleMask() { return _mm512_set1_epi8(15); }

struct NibbleCodes {
  static constexpr int kBytes = 256;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i c = Load64(codes + 64 * v);
    return {_mm512_and_si512(c, NibbleMask()), _mm512_and_si512(_mm512_srli_epi16(c, 4), NibbleMask())};
  }
};

// Bit 4 of quad i is bit i of the last vector.
struct FiveBitCodes {
  static constexpr int kBytes = 320;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i c = Load64(codes + 64 * v);
    const __m512i bits = Load64(codes + 256);
    const __m512i bit4 = _mm512_set1_epi8(16);
    return {MaskOr(c, NibbleMask(), _mm512_and_si512(Shift<4 - v>(bits), bit4)),
            MaskOr(_mm512_srli_epi16(c, 4), NibbleMask(), _mm512_and_si512(Shift<-v>(bits), bit4))};
  }
};

// Bits 4 and 5 of quad q are bits 2 (q / 2) and 2 (q / 2) + 1 of vector q mod 2 of the pairs.
struct SixBitCodes {
  static constexpr int kBytes = 384;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i c = Load64(codes + 64 * v);
    const __m512i pairs = Load64(codes + 256 + 64 * (v & 1));
    const __m512i top = _mm512_set1_epi8(0x30);
    return {
        MaskOr(c, NibbleMask(), _mm512_and_si512(Shift<4 - 2 * (v >> 1)>(pairs), top)),
        MaskOr(_mm512_srli_epi16(c, 4), NibbleMask(), _mm512_and_si512(Shift<-2 * (v >> 1)>(pairs), top))};
  }
};

struct TwoBitCodes {
  static constexpr int kBytes = 128;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i pairs = Load64(codes + 64 * (v & 1));
    const __m512i mask = _mm512_set1_epi8(3);
    return {_mm512_and_si512(Shift<-2 * (v >> 1)>(pairs), mask),
            _mm512_and_si512(Shift<-4 - 2 * (v >> 1)>(pairs), mask)};
  }
};

// Bit 2 of quad i is bit i of the last vector.
struct ThreeBitCodes {
  static constexpr int kBytes = 192;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i pairs = Load64(codes + 64 * (v & 1));
    const __m512i bits = Load64(codes + 128);
    const __m512i mask = _mm512_set1_epi8(3);
    const __m512i bit2 = _mm512_set1_epi8(4);
    return {MaskOr(Shift<-2 * (v >> 1)>(pairs), mask, _mm512_and_si512(Shift<2 - v>(bits), bit2)),
            MaskOr(Shift<-4 - 2 * (v >> 1)>(pairs), mask, _mm512_and_si512(Shift<-2 - v>(bits), bit2))};
  }
};

// Signed bytes made unsigned by adding 128.
struct OffsetByteCodes {
  static constexpr int kBytes = 512;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m512i sign = _mm512_set1_epi8(-128);
    return {_mm512_xor_si512(Load64(codes + 64 * v), sign),
            _mm512_xor_si512(Load64(codes + 64 * (v + 4)), sign)};
  }
};

// Nibbles as what kValues has for them, plus kOffset: unsigned.
template <const int8_t (&kValues)[16], int kOffset>
struct LookedUpCodes {
  static constexpr int kBytes = 256;
  template <int v>
  static QuadPair Pair(const uint8_t* codes) {
    const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kValues));
    const __m512i table =
        _mm512_add_epi8(_mm512_broadcast_i32x4(values), _mm512_set1_epi8(static_cast<char>(kOffset)));
    const QuadPair nibbles = NibbleCodes::Pair<v>(codes);
    return {_mm512_shuffle_epi8(table, nibbles.low), _mm512_shuffle_epi8(table, nibbles.high)};
  }
};
using OffsetNonLinearCodes = LookedUpCodes<kIq4NlValues, 128>;
using OffsetE2m1Codes = LookedUpCodes<kMxfp4Values, 16>;

}  // namespace
}  // namespace moepool
