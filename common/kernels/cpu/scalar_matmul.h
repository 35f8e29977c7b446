// The reference matrix products: one lane and block at a time, as the formula reads.
#pragma once

#include "common/kernels/cpu/block_cursor.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

const uint8_t* Group(const PackedWeights& w, int64_t group) { return w.data + group * w.group_bytes; }

// Code of a lane and column in the vectors of packed.h.
int Nibble(const uint8_t* codes, int lane, int col) {
  const int quad = col / 4;
  const int byte = codes[64 * (quad & 3) + 4 * lane + col % 4];
  return quad < 4 ? byte & 15 : byte >> 4;
}
int Pair(const uint8_t* codes, int lane, int col) {
  const int quad = col / 4;
  return codes[64 * (quad & 1) + 4 * lane + col % 4] >> (2 * (quad >> 1)) & 3;
}
int Bit(const uint8_t* codes, int lane, int col) { return codes[4 * lane + col % 4] >> (col / 4) & 1; }
int ThreeBits(const uint8_t* codes, int lane, int col) {
  return Pair(codes, lane, col) | Bit(codes + 128, lane, col) << 2;
}
int FiveBits(const uint8_t* codes, int lane, int col) {
  return Nibble(codes, lane, col) | Bit(codes + 256, lane, col) << 4;
}
int SixBits(const uint8_t* codes, int lane, int col) {
  return Nibble(codes, lane, col) | Pair(codes + 256, lane, col) << 4;
}
int NonLinear(const uint8_t* codes, int lane, int col) { return kIq4NlValues[Nibble(codes, lane, col)]; }
int DoubledE2m1(const uint8_t* codes, int lane, int col) { return kMxfp4Values[Nibble(codes, lane, col)]; }
int Byte(const uint8_t* codes, int lane, int col) {
  return static_cast<int8_t>(codes[64 * (col / 4) + 4 * lane + col % 4]);
}

// One lane and block.
struct BlockTerm {
  BlockBytes w;
  const ActivationBlock& x;
  int lane;
};

float Half(const uint8_t* plane, int lane) { return F16ToF32(LoadU16(plane + 2 * lane)); }
float PowerOfTwo(const uint8_t* plane, int lane) { return HalvedE8m0(plane[lane]); }

template <typename Code>
int32_t Dot(const BlockTerm& t, int begin, int end, int offset, const Code& code) {
  int32_t sum = 0;
  for (int c = begin; c < end; ++c) sum += (code(t.w.codes, t.lane, c) - offset) * t.x.q[c];
  return sum;
}

// d per block:  acc = fma(float(sum of code x), d d_x, acc)
template <int (*kCode)(const uint8_t*, int, int), int kOffset, int kBytes,
          float (*kScale)(const uint8_t*, int) = Half, int kScaleBytes = 32>
struct Scaled {
  static constexpr int kCodes = kBytes, kScales = kScaleBytes, kSupers = 0;
  static float Step(const BlockTerm& t, float acc) {
    const int32_t sum = Dot(t, 0, 32, kOffset, kCode);
    return __builtin_fmaf(static_cast<float>(sum), kScale(t.w.scales, t.lane) * t.x.scale, acc);
  }
};
using Q8_0 = Scaled<Byte, 0, 512>;
using Q4_0 = Scaled<Nibble, 8, 256>;
using Q5_0 = Scaled<FiveBits, 16, 320>;
using IQ4_NL = Scaled<NonLinear, 0, 256>;
using MXFP4 = Scaled<DoubledE2m1, 0, 256, PowerOfTwo, 16>;

// d and m per block:  then acc = fma(m, d_x sum of x, acc)
template <int (*kCode)(const uint8_t*, int, int), int kBytes>
struct ScaledWithMin {
  static constexpr int kCodes = kBytes, kScales = 64, kSupers = 0;
  static float Step(const BlockTerm& t, float acc) {
    const int32_t sum = Dot(t, 0, 32, 0, kCode);
    acc = __builtin_fmaf(static_cast<float>(sum), Half(t.w.scales, t.lane) * t.x.scale, acc);
    return __builtin_fmaf(Half(t.w.scales + 32, t.lane), t.x.scaled_sum, acc);
  }
};
using Q4_1 = ScaledWithMin<Nibble, 256>;
using Q5_1 = ScaledWithMin<FiveBits, 320>;

// Integer scale and minimum per block under d and dmin:
//   acc = fma(float(sum of code x), (d sc) d_x, acc);  acc = fma(-(dmin m), d_x sum of x, acc)
template <int (*kCode)(const uint8_t*, int, int), int kBytes>
struct SuperScaledWithMin {
  static constexpr int kCodes = kBytes, kScales = 32, kSupers = 64;
  static float Step(const BlockTerm& t, float acc) {
    const float scale = Half(t.w.supers, t.lane) * static_cast<float>(t.w.scales[t.lane]);
    const float min = Half(t.w.supers + 32, t.lane) * static_cast<float>(t.w.scales[16 + t.lane]);
    acc = __builtin_fmaf(static_cast<float>(Dot(t, 0, 32, 0, kCode)), scale * t.x.scale, acc);
    return __builtin_fmaf(-min, t.x.scaled_sum, acc);
  }
};
using Q4_K = SuperScaledWithMin<Nibble, 256>;
using Q5_K = SuperScaledWithMin<FiveBits, 320>;

// Integer scale per 16 columns under d:  s_i = sum over half i of (code - offset) x, in int32;
//   acc = fma(float(sc0 s0 + sc1 s1), d d_x, acc)
// The sum is within 2 * 16 * 127 * 128 * 32 < 2^24: exact as a float.
template <int (*kCode)(const uint8_t*, int, int), int kOffset, int kBytes>
struct HalfScaled {
  static constexpr int kCodes = kBytes, kScales = 32, kSupers = 32;
  static float Step(const BlockTerm& t, float acc) {
    const int32_t scale0 = static_cast<int8_t>(t.w.scales[2 * t.lane]);
    const int32_t scale1 = static_cast<int8_t>(t.w.scales[2 * t.lane + 1]);
    const int32_t sum = scale0 * Dot(t, 0, 16, kOffset, kCode) + scale1 * Dot(t, 16, 32, kOffset, kCode);
    return __builtin_fmaf(static_cast<float>(sum), Half(t.w.supers, t.lane) * t.x.scale, acc);
  }
};
using Q3_K = HalfScaled<ThreeBits, 4, 192>;
using Q6_K = HalfScaled<SixBits, 32, 384>;

// Integer scale and minimum per 16 columns under d and dmin, h_i = sum of x over half i, both sums in int32:
//   acc = fma(float(sc0 s0 + sc1 s1), d d_x, acc);  acc = fma(float(-m0 h0 - m1 h1), dmin d_x, acc)
struct Q2_K {
  static constexpr int kCodes = 128, kScales = 32, kSupers = 64;
  static float Step(const BlockTerm& t, float acc) {
    int32_t sum = 0;
    int32_t neg_min_sum = 0;
    for (int half = 0; half < 2; ++half) {
      const int32_t code = t.w.scales[2 * t.lane + half];
      sum += (code & 15) * Dot(t, 16 * half, 16 * half + 16, 0, Pair);
      neg_min_sum += (code >> 4) * t.x.neg_half_sums[half];
    }
    acc = __builtin_fmaf(static_cast<float>(sum), Half(t.w.supers, t.lane) * t.x.scale, acc);
    return __builtin_fmaf(static_cast<float>(neg_min_sum), Half(t.w.supers + 32, t.lane) * t.x.scale, acc);
  }
};

template <typename Format>
void MatMulQuantized(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                     float* out, int64_t out_stride) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    const uint8_t* const group = Group(w, g);
    for (int64_t t = 0; t < x.count; ++t) {
      const ActivationBlock* const blocks = x.blocks + x.index[t] * (x.cols / kQuantBlock);
      float* const y = out + t * out_stride + (g - group_begin) * kGroupRows;
      for (int lane = 0; lane < kGroupRows; ++lane) {
        float acc = 0;
        BlockCursor<Format> cursor(group, w.first_sub_block);
        for (int64_t b = 0; b < w.blocks; ++b) acc = Format::Step({cursor.Next(), blocks[b], lane}, acc);
        y[lane] = acc;
      }
    }
  }
}

float WeightF32(const uint8_t* p, int lane) { return LoadF32(p + 4 * lane); }
float WeightBF16(const uint8_t* p, int lane) {
  return BitsFloat(static_cast<uint32_t>(LoadU16(p + 2 * lane)) << 16);
}

template <int kColumnBytes, float (*kWeight)(const uint8_t*, int)>
void MatMulPlain(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                 float* out, int64_t out_stride) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    const uint8_t* const group = Group(w, g);
    for (int64_t t = 0; t < x.count; ++t) {
      const float* const row = x.f32 + x.index[t] * x.cols;
      float* const y = out + t * out_stride + (g - group_begin) * kGroupRows;
      float acc[kGroupRows] = {};
      for (int64_t c = 0; c < w.blocks; ++c) {
        for (int lane = 0; lane < kGroupRows; ++lane) {
          acc[lane] = __builtin_fmaf(kWeight(group + c * kColumnBytes, lane), row[c], acc[lane]);
        }
      }
      for (int lane = 0; lane < kGroupRows; ++lane) y[lane] = acc[lane];
    }
  }
}

}  // namespace
}  // namespace moepool
