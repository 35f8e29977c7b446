// The quantised formats as a warp reads them: 16 rows (a group of common/kernels/packed.h) and 32 columns at
// a time, as matrix A of simt.h's MultiplyBytes, whose lane = 4 g + t holds rows g and g + 8. Quads (4
// columns) t and t + 4 of a row are what packed.h keeps in one vector of nibbles, so that a lane's codes are
// one load a row.
//
// A format has
//   kCodes, kScales, kSupers  bytes of a group and block (packed.h)
//   Raw                       what a lane loads of a block
//   Load(block, g, t)         block: its scales, then its codes
//   Codes(raw, t, a)          the fragment of A, offsets taken off
//   Accumulate(...)           the block's term of each sum, in the order that scalar_matmul.h has
#pragma once

#include "common/kernels/cuda/numerics.cuh"
#include "common/kernels/cuda/simt.h"
#include "common/tensor/dtype.h"

namespace moepool {
namespace {

constexpr uint32_t kOnes = 0x01010101u;

// --- Codes ---

// Bytes v - offset, v < 128 and offset <= 128.
SIMT_DEVICE uint32_t TakeOff(uint32_t v, uint32_t offset) {
  return ((v | 0x80808080u) - offset * kOnes) ^ 0x80808080u;
}

SIMT_DEVICE uint32_t LowNibbles(uint32_t v) { return v & 0x0f0f0f0fu; }
SIMT_DEVICE uint32_t HighNibbles(uint32_t v) { return v >> 4 & 0x0f0f0f0fu; }

// Of rows g and g + 8: quads t and t + 4.
struct NibbleCodes {
  static constexpr int kBytes = 256;
  uint32_t nibbles[2];
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) nibbles[r] = simt::Load4(codes + 64 * t + 4 * (g + 8 * r));
  }
  SIMT_DEVICE void Quads(int, uint32_t (&a)[4]) const {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      a[r] = LowNibbles(nibbles[r]);
      a[2 + r] = HighNibbles(nibbles[r]);
    }
  }
};

struct BitCodes {
  static constexpr int kBytes = 64;
  uint32_t bits[2];
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int) {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) bits[r] = simt::Load4(codes + 4 * (g + 8 * r));
  }
  SIMT_DEVICE void AddQuads(int t, int shift, uint32_t (&a)[4]) const {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      a[r] |= (bits[r] >> t & kOnes) << shift;
      a[2 + r] |= (bits[r] >> (t + 4) & kOnes) << shift;
    }
  }
};

struct PairCodes {
  static constexpr int kBytes = 128;
  uint32_t pairs[2];
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) pairs[r] = simt::Load4(codes + 64 * (t & 1) + 4 * (g + 8 * r));
  }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    const int low = 2 * (t >> 1);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      a[r] = pairs[r] >> low & 0x03030303u;
      a[2 + r] = pairs[r] >> (low + 4) & 0x03030303u;
    }
  }
};

template <uint32_t kOffset>
struct FourBits {
  static constexpr int kBytes = NibbleCodes::kBytes;
  NibbleCodes low;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) { low.Load(codes, g, t); }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    low.Quads(t, a);
    if constexpr (kOffset != 0) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = TakeOff(a[i], kOffset);
    }
  }
};

template <uint32_t kOffset>
struct FiveBits {
  static constexpr int kBytes = NibbleCodes::kBytes + BitCodes::kBytes;
  NibbleCodes low;
  BitCodes high;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    low.Load(codes, g, t);
    high.Load(codes + NibbleCodes::kBytes, g, t);
  }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    low.Quads(t, a);
    high.AddQuads(t, 4, a);
    if constexpr (kOffset != 0) {
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) a[i] = TakeOff(a[i], kOffset);
    }
  }
};

struct TwoBits {
  static constexpr int kBytes = PairCodes::kBytes;
  PairCodes low;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) { low.Load(codes, g, t); }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const { low.Quads(t, a); }
};

struct ThreeBits {
  static constexpr int kBytes = PairCodes::kBytes + BitCodes::kBytes;
  PairCodes low;
  BitCodes high;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    low.Load(codes, g, t);
    high.Load(codes + PairCodes::kBytes, g, t);
  }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    low.Quads(t, a);
    high.AddQuads(t, 2, a);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = TakeOff(a[i], 4);
  }
};

struct SixBits {
  static constexpr int kBytes = NibbleCodes::kBytes + PairCodes::kBytes;
  NibbleCodes low;
  PairCodes high;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    low.Load(codes, g, t);
    high.Load(codes + NibbleCodes::kBytes, g, t);
  }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    uint32_t top[4];
    low.Quads(t, a);
    high.Quads(t, top);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = TakeOff(a[i] | top[i] << 4, 32);
  }
};

struct EightBits {
  static constexpr int kBytes = 512;
  uint32_t bytes[4];
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i)
      bytes[i] = simt::Load4(codes + 64 * (t + 4 * (i / 2)) + 4 * (g + 8 * (i % 2)));
  }
  SIMT_DEVICE void Quads(int, uint32_t (&a)[4]) const {
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) a[i] = bytes[i];
  }
};

// A code is an index of 16 values.
template <uint32_t kValues0, uint32_t kValues1, uint32_t kValues2, uint32_t kValues3>
struct ValueCodes {
  static constexpr int kBytes = NibbleCodes::kBytes;
  NibbleCodes low;
  SIMT_DEVICE void Load(const uint8_t* codes, int g, int t) { low.Load(codes, g, t); }
  SIMT_DEVICE void Quads(int t, uint32_t (&a)[4]) const {
    low.Quads(t, a);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      // The lower three bits of each byte pick of 8 values, the fourth which 8.
      const uint32_t pick = a[i] & 0x07070707u;
      const uint32_t nibbles = (pick & 7) | (pick >> 4 & 0x70) | (pick >> 8 & 0x700) | (pick >> 12 & 0x7000);
      const uint32_t from_low = simt::PickBytes(kValues0, kValues1, nibbles);
      const uint32_t from_high = simt::PickBytes(kValues2, kValues3, nibbles);
      const uint32_t mask = (a[i] >> 3 & kOnes) * 0xffu;
      a[i] = (from_low & ~mask) | (from_high & mask);
    }
  }
};

constexpr uint32_t PackValues(const int8_t (&values)[16], int first) {
  uint32_t packed = 0;
  for (int i = 0; i < 4; ++i) {
    packed |= static_cast<uint32_t>(static_cast<uint8_t>(values[first + i])) << (8 * i);
  }
  return packed;
}
using Iq4NlCodes = ValueCodes<PackValues(kIq4NlValues, 0), PackValues(kIq4NlValues, 4),
                              PackValues(kIq4NlValues, 8), PackValues(kIq4NlValues, 12)>;
using Mxfp4Codes = ValueCodes<PackValues(kMxfp4Values, 0), PackValues(kMxfp4Values, 4),
                              PackValues(kMxfp4Values, 8), PackValues(kMxfp4Values, 12)>;

// --- Sums ---

// A block of the activations of two tokens, those of a lane's columns of D.
struct TokenBlock {
  float scale[2];
};

// The sum of a token's codes over 32 columns, or over the first or second 16, in D's places.
SIMT_DEVICE void SumCodes(uint32_t first, uint32_t second, const uint32_t (&b)[2], int32_t (&sum)[4]) {
  const uint32_t ones[4] = {first, first, second, second};
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) sum[i] = 0;
  simt::MultiplyBytes(ones, b, sum);
}

SIMT_DEVICE void Dot(const uint32_t (&a)[4], const uint32_t (&b)[2], int32_t (&sum)[4]) {
  SIMT_UNROLL
  for (int i = 0; i < 4; ++i) sum[i] = 0;
  simt::MultiplyBytes(a, b, sum);
}

// Over the first 16 columns (half 0) or the others.
SIMT_DEVICE void DotHalf(const uint32_t (&a)[4], const uint32_t (&b)[2], int half, int32_t (&sum)[4]) {
  const uint32_t kept[4] = {half == 0 ? a[0] : 0, half == 0 ? a[1] : 0, half == 0 ? 0 : a[2],
                            half == 0 ? 0 : a[3]};
  Dot(kept, b, sum);
}

SIMT_DEVICE float LoadHalf(const uint8_t* plane, int row) {
  return HalfToFloat(simt::Load2(plane + 2 * row));
}

// Scales of a block: f16, or the exponents e of 2^(e - 128).
struct HalfScales {
  static constexpr int kBytes = 32;
  SIMT_DEVICE static float Load(const uint8_t* scales, int row) { return LoadHalf(scales, row); }
};
struct PowerScales {
  static constexpr int kBytes = 16;
  SIMT_DEVICE static float Load(const uint8_t* scales, int row) {
    const uint32_t e = simt::Load1(scales + row);
    // Subnormal for 0 and 1.
    return simt::BitsFloat(e >= 2 ? (e - 1) << 23 : 0x00200000u << e);
  }
};

// acc = fma(float(sum of code x), d d_x, acc)
template <typename CodesOf, typename Scales = HalfScales>
struct Scaled {
  static constexpr int kScales = Scales::kBytes, kSupers = 0, kCodes = CodesOf::kBytes;
  struct Raw {
    CodesOf codes;
    float d[2];
  };
  SIMT_DEVICE static void Load(const uint8_t* block, const uint8_t*, int g, int t, Raw* raw) {
    raw->codes.Load(block + kScales, g, t);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) raw->d[r] = Scales::Load(block, g + 8 * r);
  }
  SIMT_DEVICE static void Accumulate(const Raw& raw, const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const TokenBlock& x, float (&acc)[4]) {
    int32_t sum[4];
    Dot(a, b, sum);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      acc[i] = simt::Fma(static_cast<float>(sum[i]), raw.d[i / 2] * x.scale[i % 2], acc[i]);
    }
  }
};

// Then acc = fma(m, d_x sum of x, acc).
template <typename CodesOf>
struct ScaledWithMin {
  static constexpr int kScales = 64, kSupers = 0, kCodes = CodesOf::kBytes;
  struct Raw {
    CodesOf codes;
    float d[2];
    float m[2];
  };
  SIMT_DEVICE static void Load(const uint8_t* block, const uint8_t*, int g, int t, Raw* raw) {
    raw->codes.Load(block + kScales, g, t);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      raw->d[r] = LoadHalf(block, g + 8 * r);
      raw->m[r] = LoadHalf(block + 32, g + 8 * r);
    }
  }
  SIMT_DEVICE static void Accumulate(const Raw& raw, const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const TokenBlock& x, float (&acc)[4]) {
    int32_t sum[4];
    int32_t codes[4];
    Dot(a, b, sum);
    SumCodes(kOnes, kOnes, b, codes);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      acc[i] = simt::Fma(static_cast<float>(sum[i]), raw.d[i / 2] * x.scale[i % 2], acc[i]);
      acc[i] = simt::Fma(raw.m[i / 2], x.scale[i % 2] * static_cast<float>(codes[i]), acc[i]);
    }
  }
};

// Integer scale and minimum under d and dmin:
//   acc = fma(float(sum of code x), (d sc) d_x, acc);  acc = fma(-(dmin m), d_x sum of x, acc)
template <typename CodesOf>
struct SuperScaledWithMin {
  static constexpr int kScales = 32, kSupers = 64, kCodes = CodesOf::kBytes;
  struct Raw {
    CodesOf codes;
    float scale[2];
    float min[2];
  };
  SIMT_DEVICE static void Load(const uint8_t* block, const uint8_t* supers, int g, int t, Raw* raw) {
    raw->codes.Load(block + kScales, g, t);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const int row = g + 8 * r;
      raw->scale[r] = LoadHalf(supers, row) * static_cast<float>(simt::Load1(block + row));
      raw->min[r] = LoadHalf(supers + 32, row) * static_cast<float>(simt::Load1(block + 16 + row));
    }
  }
  SIMT_DEVICE static void Accumulate(const Raw& raw, const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const TokenBlock& x, float (&acc)[4]) {
    int32_t sum[4];
    int32_t codes[4];
    Dot(a, b, sum);
    SumCodes(kOnes, kOnes, b, codes);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      acc[i] = simt::Fma(static_cast<float>(sum[i]), raw.scale[i / 2] * x.scale[i % 2], acc[i]);
      acc[i] = simt::Fma(-raw.min[i / 2], x.scale[i % 2] * static_cast<float>(codes[i]), acc[i]);
    }
  }
};

// Integer scale per 16 columns under d, s_i the sum over half i:  acc = fma(float(sc0 s0 + sc1 s1), d d_x,
// acc)
template <typename CodesOf>
struct HalfScaled {
  static constexpr int kScales = 32, kSupers = 32, kCodes = CodesOf::kBytes;
  struct Raw {
    CodesOf codes;
    int32_t scale[2][2];  // [row][half]
    float d[2];
  };
  SIMT_DEVICE static void Load(const uint8_t* block, const uint8_t* supers, int g, int t, Raw* raw) {
    raw->codes.Load(block + kScales, g, t);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const uint16_t both = simt::Load2(block + 2 * (g + 8 * r));
      raw->scale[r][0] = static_cast<int8_t>(both & 0xff);
      raw->scale[r][1] = static_cast<int8_t>(both >> 8);
      raw->d[r] = LoadHalf(supers, g + 8 * r);
    }
  }
  SIMT_DEVICE static void Accumulate(const Raw& raw, const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const TokenBlock& x, float (&acc)[4]) {
    int32_t sum0[4];
    int32_t sum1[4];
    DotHalf(a, b, 0, sum0);
    DotHalf(a, b, 1, sum1);
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      const int32_t sum = raw.scale[i / 2][0] * sum0[i] + raw.scale[i / 2][1] * sum1[i];
      acc[i] = simt::Fma(static_cast<float>(sum), raw.d[i / 2] * x.scale[i % 2], acc[i]);
    }
  }
};

// Integer scale and minimum per 16 columns under d and dmin, h_i the sum of x over half i:
//   acc = fma(float(sc0 s0 + sc1 s1), d d_x, acc);  acc = fma(float(-m0 h0 - m1 h1), dmin d_x, acc)
struct HalfScaledWithMin {
  static constexpr int kScales = 32, kSupers = 64, kCodes = TwoBits::kBytes;
  struct Raw {
    TwoBits codes;
    uint32_t scale[2][2];  // [row][half]: scale + 16 min
    float d[2];
    float dmin[2];
  };
  SIMT_DEVICE static void Load(const uint8_t* block, const uint8_t* supers, int g, int t, Raw* raw) {
    raw->codes.Load(block + kScales, g, t);
    SIMT_UNROLL
    for (int r = 0; r < 2; ++r) {
      const uint16_t both = simt::Load2(block + 2 * (g + 8 * r));
      raw->scale[r][0] = both & 0xff;
      raw->scale[r][1] = both >> 8;
      raw->d[r] = LoadHalf(supers, g + 8 * r);
      raw->dmin[r] = LoadHalf(supers + 32, g + 8 * r);
    }
  }
  SIMT_DEVICE static void Accumulate(const Raw& raw, const uint32_t (&a)[4], const uint32_t (&b)[2],
                                     const TokenBlock& x, float (&acc)[4]) {
    int32_t sum[4] = {0, 0, 0, 0};
    int32_t min_sum[4] = {0, 0, 0, 0};
    SIMT_UNROLL
    for (int half = 0; half < 2; ++half) {
      int32_t dot[4];
      int32_t codes[4];
      DotHalf(a, b, half, dot);
      SumCodes(half == 0 ? kOnes : 0, half == 0 ? 0 : kOnes, b, codes);
      SIMT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint32_t scale = raw.scale[i / 2][half];
        sum[i] += static_cast<int32_t>(scale & 15) * dot[i];
        min_sum[i] -= static_cast<int32_t>(scale >> 4) * codes[i];
      }
    }
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) {
      acc[i] = simt::Fma(static_cast<float>(sum[i]), raw.d[i / 2] * x.scale[i % 2], acc[i]);
      acc[i] = simt::Fma(static_cast<float>(min_sum[i]), raw.dmin[i / 2] * x.scale[i % 2], acc[i]);
    }
  }
};

using Q4_0 = Scaled<FourBits<8>>;
using Q5_0 = Scaled<FiveBits<16>>;
using Q8_0 = Scaled<EightBits>;
using IQ4_NL = Scaled<Iq4NlCodes>;
using MXFP4 = Scaled<Mxfp4Codes, PowerScales>;
using Q4_1 = ScaledWithMin<FourBits<0>>;
using Q5_1 = ScaledWithMin<FiveBits<0>>;
using Q4_K = SuperScaledWithMin<FourBits<0>>;
using Q5_K = SuperScaledWithMin<FiveBits<0>>;
using Q3_K = HalfScaled<ThreeBits>;
using Q6_K = HalfScaled<SixBits>;
using Q2_K = HalfScaledWithMin;

}  // namespace
}  // namespace moepool
