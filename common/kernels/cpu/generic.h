// Kernels in plain C++ that every instruction-set file compiles for itself, in an anonymous namespace so that
// the linker cannot merge copies built with different flags. Order and rounding of each operation are the
// reference for all.
#pragma once

#include <cstdint>

#include "common/base/exp_constants.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

// --- Bits ---

inline uint16_t LoadU16(const void* p) {
  uint16_t v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
inline uint32_t FloatBits(float x) {
  uint32_t v;
  __builtin_memcpy(&v, &x, sizeof v);
  return v;
}
inline float BitsFloat(uint32_t v) {
  float x;
  __builtin_memcpy(&x, &v, sizeof x);
  return x;
}
inline float LoadF32(const void* p) {
  float x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

inline float F16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) {  // infinity, or a NaN made quiet as VCVTPH2PS makes it
    const uint32_t quiet = magnitude > 0x7c00 ? 0x400000 : 0;
    return BitsFloat(sign | 0x7f800000 | quiet | (magnitude & 0x3ff) << 13);
  }
  if (magnitude < 0x400) {  // subnormal: magnitude * 2^-24, exact
    const float x = static_cast<float>(static_cast<int32_t>(magnitude)) * 0x1p-24f;
    return BitsFloat(sign | FloatBits(x));
  }
  return BitsFloat(sign | ((magnitude << 13) + (uint32_t{112} << 23)));
}

// Nearest even; past the range to infinity.
inline uint16_t F32ToF16(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);  // 65536 and up
  if (magnitude < 0x38800000) {  // under 2^-14: adding 1/2 leaves multiples of 2^-24 in the low bits, rounded
    const uint32_t sum = FloatBits(BitsFloat(magnitude) + 0.5f);
    return static_cast<uint16_t>(sign | (sum - 0x3f000000));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | ((magnitude - (uint32_t{112} << 23) + 0xfff + odd) >> 13));
}

inline float BF16ToF32(uint16_t h) { return BitsFloat(static_cast<uint32_t>(h) << 16); }

// Nearest even; past the range to infinity.
inline uint16_t F32ToBF16(float x) {
  const uint32_t bits = FloatBits(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40;  // of a NaN, whose payload a carry might clear
  return static_cast<uint16_t>((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded);
}

// 2^(e - 128), half of what the E8M0 scale e of an MXFP4 block stands for; subnormal for 0 and 1. e < 255.
inline float HalvedE8m0(uint32_t e) {
  const uint32_t bits = e << 23;  // 0 in place of 2^-127, which is subnormal
  return BitsFloat(bits > 0x00400000 ? bits : 0x00400000) * 0.5f;
}

inline bool Finite(float x) { return (FloatBits(x) & 0x7fffffff) < 0x7f800000; }

// VMAXPS: b where the two do not compare.
inline float Max(float a, float b) { return a > b ? a : b; }

// --- Reductions: 16 lanes, lane i takes elements i, i + 16, ... ---

inline float TreeSum16(const float* lane) {
  float s[8];
  for (int i = 0; i < 8; ++i) s[i] = lane[i] + lane[i + 8];
  for (int i = 0; i < 4; ++i) s[i] += s[i + 4];
  for (int i = 0; i < 2; ++i) s[i] += s[i + 2];
  return s[0] + s[1];
}

inline float Sum(const float* x, int64_t n) {
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i & 15] += x[i];
  return TreeSum16(lane);
}

inline float SumSquares(const float* x, int64_t n) {
  float lane[16] = {};
  for (int64_t i = 0; i < n; ++i) lane[i & 15] = __builtin_fmaf(x[i], x[i], lane[i & 15]);
  return TreeSum16(lane);
}

inline bool AllFinite(const float* x, int64_t n) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t magnitude = FloatBits(x[i]) & 0x7fffffff;
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest < 0x7f800000;
}

// --- Activations ---

inline constexpr float kSmallestMaximum = 1e-30f;

inline void Scale(const float* x, float factor, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] * factor;
}

inline void Add(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] += x[i];
}

// --- Attention ---

// A split as one row sees it: keys [begin, end).
struct RowSplit : KvSplit {
  int begin;
  int end;
};

// attend(split, heads, scale, q, scratch, max, sum, acc) for each row.
template <typename Attend>
inline void AttendRowByRow(const KvSplit& split, const SplitRows& rows, float scale, float* scratch,
                           const Attend& attend) {
  for (int r = 0; r < rows.rows; ++r) {
    float* const max = rows.out + r * rows.out_stride;
    attend(RowSplit{split, rows.begin[r], rows.end[r]}, rows.heads, scale, rows.q + r * rows.q_stride,
           scratch, max, max + rows.heads, max + 2 * rows.heads);
  }
}

inline void Rotate(RopeKind kind, const float* cos, const float* sin, int rope_dims, float* x) {
  const int pairs = rope_dims / 2;
  const int step = kind == RopeKind::kNeox ? 1 : 2;
  const int apart = kind == RopeKind::kNeox ? pairs : 1;
  for (int i = 0; i < pairs; ++i) {
    float* const a = x + step * i;
    float* const b = a + apart;
    const float a0 = *a;
    const float b0 = *b;
    *a = __builtin_fmaf(-b0, sin[i], a0 * cos[i]);
    *b = __builtin_fmaf(b0, cos[i], a0 * sin[i]);
  }
}

inline constexpr uint16_t kHalfInfinity = 0x7c00;
inline constexpr uint16_t kHalfNan = 0x7e00;
inline constexpr int kLargestCode = 127;

// x [32] as Q8_0 (KvLayer): codes `stride` apart; returns the scale's bits.
inline uint16_t QuantizeKvBlock(const float* x, int64_t stride, int8_t* codes) {
  int32_t bits = 0;
  for (int i = 0; i < kKvQuantBlock; ++i) {
    const int32_t magnitude = static_cast<int32_t>(FloatBits(x[i]) & 0x7fffffff);
    bits = magnitude > bits ? magnitude : bits;
  }
  // A maximum that is not finite has no finite quotient either.
  const uint16_t half = F32ToF16(BitsFloat(static_cast<uint32_t>(bits)) / kLargestCode);
  const bool usable = half != 0 && half < kHalfInfinity;
  const float inverse = usable ? 1.0f / F16ToF32(half) : 0.0f;
  int32_t code[kKvQuantBlock];
  for (int i = 0; i < kKvQuantBlock; ++i) {
    // Adding 1.5 * 2^23 rounds to nearest even.
    const float shifted = (usable ? x[i] : 0.0f) * inverse + kExpRoundMagic;
    const int32_t n = static_cast<int32_t>(FloatBits(shifted) - FloatBits(kExpRoundMagic));
    code[i] = n > kLargestCode ? kLargestCode : n < -kLargestCode ? -kLargestCode : n;
  }
  for (int i = 0; i < kKvQuantBlock; ++i) codes[i * stride] = static_cast<int8_t>(code[i]);
  return half < kHalfInfinity ? half : kHalfNan;
}

inline void StoreKvQ8_0(const float* k, const float* v, int head_dim, int slot, std::byte* k_block,
                        std::byte* v_block) {
  auto* const k_codes = reinterpret_cast<int8_t*>(k_block) + slot;
  auto* const v_codes = reinterpret_cast<int8_t*>(v_block) + slot * head_dim;
  auto* const k_scales = reinterpret_cast<uint16_t*>(k_block + kKvBlockTokens * head_dim) + slot;
  auto* const v_scales = reinterpret_cast<uint16_t*>(v_block + kKvBlockTokens * head_dim) + slot;
  for (int b = 0; b < head_dim / kKvQuantBlock; ++b) {
    const int d = b * kKvQuantBlock;
    k_scales[b * kKvBlockTokens] = QuantizeKvBlock(k + d, kKvBlockTokens, k_codes + d * kKvBlockTokens);
    v_scales[b * kKvBlockTokens] = QuantizeKvBlock(v + d, 1, v_codes + d);
  }
}

inline void StoreKv(KvType type, const float* k, const float* v, int head_dim, int slot, std::byte* k_block,
                    std::byte* v_block) {
  if (type == KvType::kQ8_0) {
    StoreKvQ8_0(k, v, head_dim, slot, k_block, v_block);
    return;
  }
  if (type == KvType::kF32) {
    auto* const keys = reinterpret_cast<float*>(k_block);
    auto* const values = reinterpret_cast<float*>(v_block) + slot * head_dim;
    for (int d = 0; d < head_dim; ++d) keys[kKvBlockTokens * d + slot] = k[d];
    for (int d = 0; d < head_dim; ++d) values[d] = v[d];
    return;
  }
  auto* const keys = reinterpret_cast<uint16_t*>(k_block);
  auto* const values = reinterpret_cast<uint16_t*>(v_block) + slot * head_dim;
  if (type == KvType::kBF16) {
    for (int d = 0; d < head_dim; ++d) keys[kKvBlockTokens * d + slot] = F32ToBF16(k[d]);
    for (int d = 0; d < head_dim; ++d) values[d] = F32ToBF16(v[d]);
    return;
  }
  for (int d = 0; d < head_dim; ++d) keys[kKvBlockTokens * d + slot] = F32ToF16(k[d]);
  for (int d = 0; d < head_dim; ++d) values[d] = F32ToF16(v[d]);
}

inline void FinishSplit(int head_dim, float sum, const float* acc, float* out) {
  const float inverse = 1.0f / sum;
  for (int d = 0; d < head_dim; ++d) out[d] = acc[d] * inverse;
}

}  // namespace
}  // namespace moepool
