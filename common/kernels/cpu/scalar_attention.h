// Attention of the scalar reference: one query, one key and one dimension at a time.
#pragma once

#include "common/base/math.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

// Where one key of a split lies: its block of K or of V, and its slot of the 16.
struct KeyPlace {
  const std::byte* block;
  int slot;
};

KeyPlace Place(const RowSplit& s, const std::byte* half, int key) {
  return {half + s.blocks[key / kKvBlockTokens] * s.block_bytes, key % kKvBlockTokens};
}

float Element(KvType type, const std::byte* block, int64_t i) {
  if (type == KvType::kF32) return LoadF32(block + 4 * i);
  const uint16_t bits = LoadU16(block + 2 * i);
  return type == KvType::kBF16 ? BF16ToF32(bits) : F16ToF32(bits);
}

float KvCode(const std::byte* block, int64_t i) { return static_cast<float>(static_cast<int8_t>(block[i])); }

// Q8_0: of dimensions [d, d + 32).
float KvScale(const KeyPlace& key, int head_dim, int d) {
  const int64_t i = d / kKvQuantBlock * kKvBlockTokens + key.slot;
  return F16ToF32(LoadU16(key.block + int64_t{kKvBlockTokens} * head_dim + 2 * i));
}

float KeyDot(const RowSplit& s, const KeyPlace& key, const float* query) {
  float sum = 0;
  if (s.type == KvType::kQ8_0) {
    for (int begin = 0; begin < s.head_dim; begin += kKvQuantBlock) {
      float part = 0;
      for (int d = begin; d < begin + kKvQuantBlock; ++d) {
        part = __builtin_fmaf(KvCode(key.block, d * kKvBlockTokens + key.slot), query[d], part);
      }
      sum = __builtin_fmaf(part, KvScale(key, s.head_dim, begin), sum);
    }
    return sum;
  }
  for (int d = 0; d < s.head_dim; ++d) {
    sum = __builtin_fmaf(Element(s.type, key.block, d * kKvBlockTokens + key.slot), query[d], sum);
  }
  return sum;
}

// out += p * the value of `key`.
void AddValue(const RowSplit& s, const KeyPlace& key, float p, float* out) {
  const int64_t row = int64_t{key.slot} * s.head_dim;
  if (s.type == KvType::kQ8_0) {
    for (int begin = 0; begin < s.head_dim; begin += kKvQuantBlock) {
      const float weight = p * KvScale(key, s.head_dim, begin);
      for (int d = begin; d < begin + kKvQuantBlock; ++d) {
        out[d] = __builtin_fmaf(weight, KvCode(key.block, row + d), out[d]);
      }
    }
    return;
  }
  for (int d = 0; d < s.head_dim; ++d) {
    out[d] = __builtin_fmaf(p, Element(s.type, key.block, row + d), out[d]);
  }
}

void AttendRow(const RowSplit& s, int heads, float scale, const float* q, float* scratch, float* max,
               float* sum, float* acc) {
  float* const p = scratch;  // by key, so that the lanes of the sum do not depend on the first
  for (int j = 0; j < s.begin; ++j) p[j] = 0;
  for (int h = 0; h < heads; ++h) {
    float m = -__builtin_inff();
    for (int j = s.begin; j < s.end; ++j) {
      p[j] = KeyDot(s, Place(s, s.k, j), q + h * s.head_dim) * scale;
      m = Max(p[j], m);
    }
    m += 0.0f;  // so that the order in which +0 and -0 were compared does not show
    for (int j = s.begin; j < s.end; ++j) p[j] = Exp(p[j] - m);
    max[h] = m;
    sum[h] = Sum(p, s.end);
    float* const out = acc + h * s.head_dim;
    for (int d = 0; d < s.head_dim; ++d) out[d] = 0;
    for (int j = s.begin; j < s.end; ++j) AddValue(s, Place(s, s.v, j), p[j], out);
  }
}

void AttendSplit(const KvSplit& split, const SplitRows& rows, float scale, float* scratch) {
  AttendRowByRow(split, rows, scale, scratch, AttendRow);
}

void MergeSplit(int head_dim, float max1, float sum1, const float* acc1, float* max, float* sum, float* acc) {
  const float m = Max(*max, max1);
  const float a = Exp(*max - m);
  const float b = Exp(max1 - m);
  *max = m;
  *sum = __builtin_fmaf(sum1, b, *sum * a);
  for (int d = 0; d < head_dim; ++d) acc[d] = __builtin_fmaf(acc1[d], b, acc[d] * a);
}

}  // namespace
}  // namespace moepool
