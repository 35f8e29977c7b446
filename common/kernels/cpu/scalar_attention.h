// Attention of the scalar reference: one query, one key and one dimension at a time.
#pragma once

#include "common/base/math.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

float Element(KvType type, const std::byte* p, int64_t i) {
  return type == KvType::kF32 ? LoadF32(p + 4 * i) : F16ToF32(LoadU16(p + 2 * i));
}

void AttendSplit(KvType type, const std::byte* k, const std::byte* v, int64_t block_stride,
                 const int32_t* blocks, int keys, int head_dim, int heads, float scale, const float* q,
                 float* scratch, float* max, float* sum, float* acc) {
  for (int h = 0; h < heads; ++h) {
    const float* const query = q + h * head_dim;
    float* const p = scratch;
    float* const out = acc + h * head_dim;
    float m = -__builtin_inff();
    for (int j = 0; j < keys; ++j) {
      const int64_t block = blocks[j / kKvBlockTokens] * block_stride;
      float s = 0;
      for (int d = 0; d < head_dim; ++d) {
        s = __builtin_fmaf(Element(type, k, block + d * kKvBlockTokens + j % kKvBlockTokens), query[d], s);
      }
      p[j] = s * scale;
      m = Max(p[j], m);
    }
    m += 0.0f;  // so that the order in which +0 and -0 were compared does not show
    for (int j = 0; j < keys; ++j) p[j] = Exp(p[j] - m);
    max[h] = m;
    sum[h] = Sum(p, keys);
    for (int d = 0; d < head_dim; ++d) out[d] = 0;
    for (int j = 0; j < keys; ++j) {
      const int64_t value = blocks[j / kKvBlockTokens] * block_stride + j % kKvBlockTokens * head_dim;
      for (int d = 0; d < head_dim; ++d) out[d] = __builtin_fmaf(p[j], Element(type, v, value + d), out[d]);
    }
  }
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
