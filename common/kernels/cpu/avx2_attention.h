// Attention with AVX2. Scores: 16 lanes are 16 keys, up to 4 queries share each load of K. Values: lanes are
// dimensions, keys ascend.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

struct CacheF16 {
  static constexpr int kBytes = 2;
  static __m256 Load8(const std::byte* p) { return LoadHalf8(p); }
  static float Load1(const std::byte* p) { return _cvtsh_ss(LoadU16(p)); }
};
struct CacheF32 {
  static constexpr int kBytes = 4;
  static __m256 Load8(const std::byte* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static float Load1(const std::byte* p) { return LoadF32(p); }
};

struct SplitView {
  const std::byte* k;
  const std::byte* v;
  int64_t block_bytes;
  const int32_t* blocks;
  int keys;
  int head_dim;
};

// Scores of H queries, q [H, head_dim], with the 16 B keys from `first` on, to p [H, 256]. Lanes past the
// last key are -inf, of which exp makes 0. 2 H B independent chains of fma.
template <typename Cache, int H, int B>
inline void ScoreBlocks(const SplitView& s, int first, float scale, const float* q, float* p) {
  const std::byte* k[B];
  __m256 acc[H][B][2];
  for (int b = 0; b < B; ++b) {
    k[b] = s.k + s.blocks[first / kKvBlockTokens + b] * s.block_bytes;
    for (int h = 0; h < H; ++h) acc[h][b][0] = acc[h][b][1] = _mm256_setzero_ps();
  }
  for (int d = 0; d < s.head_dim; ++d) {
    for (int b = 0; b < B; ++b) {
      const __m256 k0 = Cache::Load8(k[b]);
      const __m256 k1 = Cache::Load8(k[b] + 8 * Cache::kBytes);
      k[b] += kKvBlockTokens * Cache::kBytes;
      for (int h = 0; h < H; ++h) {
        const __m256 v = _mm256_broadcast_ss(q + h * s.head_dim + d);
        acc[h][b][0] = _mm256_fmadd_ps(k0, v, acc[h][b][0]);
        acc[h][b][1] = _mm256_fmadd_ps(k1, v, acc[h][b][1]);
      }
    }
  }
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  for (int b = 0; b < B; ++b) {
    for (int i = 0; i < 2; ++i) {
      const int key = first + kKvBlockTokens * b + 8 * i;
      const __m256i visible = _mm256_cmpgt_epi32(_mm256_set1_epi32(s.keys - key), lane);
      for (int h = 0; h < H; ++h) {
        const __m256 score =
            _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), _mm256_mul_ps(acc[h][b][i], factor),
                             _mm256_castsi256_ps(visible));
        _mm256_storeu_ps(p + h * kAttentionSplit + key, score);
      }
    }
  }
}

// Scores of all keys. A single query takes 4 blocks at once, two take 2: fewer chains would wait for the
// fma's latency.
template <typename Cache, int H>
void Scores(const SplitView& s, float scale, const float* q, float* p) {
  constexpr int kBlocks = H == 1 ? 4 : H == 2 ? 2 : 1;
  int first = 0;
  for (; first + kBlocks * kKvBlockTokens <= s.keys; first += kBlocks * kKvBlockTokens) {
    ScoreBlocks<Cache, H, kBlocks>(s, first, scale, q, p);
  }
  for (; first < s.keys; first += kKvBlockTokens) ScoreBlocks<Cache, H, 1>(s, first, scale, q, p);
}

// p <- exp(p - max); returns the maximum and the sum.
inline void Softmax(int keys, float* p, float* max, float* sum) {
  __m256 m = _mm256_set1_ps(-__builtin_inff());
  for (int i = 0; i < keys; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(p + i), m);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, m);
  float largest = lanes[0];
  for (int i = 1; i < 8; ++i) largest = Max(lanes[i], largest);
  largest += 0.0f;  // so that the order in which +0 and -0 were compared does not show
  const __m256 all = _mm256_set1_ps(largest);
  __m256 a = _mm256_setzero_ps();
  __m256 b = _mm256_setzero_ps();
  for (int i = 0; i < keys; i += kKvBlockTokens) {
    const __m256 p0 = Exp8(_mm256_sub_ps(_mm256_loadu_ps(p + i), all));
    const __m256 p1 = Exp8(_mm256_sub_ps(_mm256_loadu_ps(p + i + 8), all));
    _mm256_storeu_ps(p + i, p0);
    _mm256_storeu_ps(p + i + 8, p1);
    a = _mm256_add_ps(a, p0);
    b = _mm256_add_ps(b, p1);
  }
  *max = largest;
  *sum = TreeSum(a, b);
}

// acc[h, d] = sum over keys of p[h, key] v[key, d] for H queries and dimensions [d, d + 8 N).
template <typename Cache, int H, int N>
void Values(const SplitView& s, const float* p, int d, float* acc) {
  __m256 sum[H][N];
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) sum[h][i] = _mm256_setzero_ps();
  }
  for (int first = 0; first < s.keys; first += kKvBlockTokens) {
    const std::byte* v = s.v + s.blocks[first / kKvBlockTokens] * s.block_bytes + d * Cache::kBytes;
    const int end = s.keys < first + kKvBlockTokens ? s.keys : first + kKvBlockTokens;
    for (int key = first; key < end; ++key, v += s.head_dim * Cache::kBytes) {
      __m256 value[N];
      for (int i = 0; i < N; ++i) value[i] = Cache::Load8(v + 8 * i * Cache::kBytes);
      for (int h = 0; h < H; ++h) {
        const __m256 weight = _mm256_broadcast_ss(p + h * kAttentionSplit + key);
        for (int i = 0; i < N; ++i) sum[h][i] = _mm256_fmadd_ps(weight, value[i], sum[h][i]);
      }
    }
  }
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) _mm256_storeu_ps(acc + h * s.head_dim + d + 8 * i, sum[h][i]);
  }
}

// The last head_dim mod 8 dimensions.
template <typename Cache>
void ValuesTail(const SplitView& s, const float* p, int heads, float* acc) {
  for (int d = s.head_dim & ~7; d < s.head_dim; ++d) {
    for (int h = 0; h < heads; ++h) {
      float sum = 0;
      for (int key = 0; key < s.keys; ++key) {
        const int64_t element = key % kKvBlockTokens * s.head_dim + d;
        const std::byte* const v =
            s.v + s.blocks[key / kKvBlockTokens] * s.block_bytes + element * Cache::kBytes;
        sum = __builtin_fmaf(p[h * kAttentionSplit + key], Cache::Load1(v), sum);
      }
      acc[h * s.head_dim + d] = sum;
    }
  }
}

// 8 accumulators where the head is wide enough: 8 registers of one query down to 2 of each of 4.
template <typename Cache, int H>
void AttendHeads(const SplitView& s, float scale, const float* q, float* p, float* max, float* sum,
                 float* acc) {
  Scores<Cache, H>(s, scale, q, p);
  for (int h = 0; h < H; ++h) Softmax(s.keys, p + h * kAttentionSplit, max + h, sum + h);
  constexpr int kWide = H == 1 ? 8 : H == 2 ? 4 : 2;
  int d = 0;
  for (; d + 8 * kWide <= s.head_dim; d += 8 * kWide) Values<Cache, H, kWide>(s, p, d, acc);
  for (; d + 8 <= s.head_dim; d += 8) Values<Cache, H, 1>(s, p, d, acc);
  if (d < s.head_dim) ValuesTail<Cache>(s, p, H, acc);
}

template <typename Cache>
void AttendAll(const SplitView& s, int heads, float scale, const float* q, float* p, float* max, float* sum,
               float* acc) {
  for (int h = 0; h < heads;) {
    const int left = heads - h;
    const float* const query = q + h * s.head_dim;
    float* const out = acc + h * s.head_dim;
    if (left >= 4) {
      AttendHeads<Cache, 4>(s, scale, query, p, max + h, sum + h, out);
      h += 4;
    } else if (left == 3) {
      AttendHeads<Cache, 3>(s, scale, query, p, max + h, sum + h, out);
      h += 3;
    } else if (left == 2) {
      AttendHeads<Cache, 2>(s, scale, query, p, max + h, sum + h, out);
      h += 2;
    } else {
      AttendHeads<Cache, 1>(s, scale, query, p, max + h, sum + h, out);
      h += 1;
    }
  }
}

void Avx2AttendSplit(KvType type, const std::byte* k, const std::byte* v, int64_t block_stride,
                     const int32_t* blocks, int keys, int head_dim, int heads, float scale, const float* q,
                     float* scratch, float* max, float* sum, float* acc) {
  if (type == KvType::kF16) {
    const SplitView s = {k, v, block_stride * CacheF16::kBytes, blocks, keys, head_dim};
    AttendAll<CacheF16>(s, heads, scale, q, scratch, max, sum, acc);
  } else {
    const SplitView s = {k, v, block_stride * CacheF32::kBytes, blocks, keys, head_dim};
    AttendAll<CacheF32>(s, heads, scale, q, scratch, max, sum, acc);
  }
}

void Avx2MergeSplit(int head_dim, float max1, float sum1, const float* acc1, float* max, float* sum,
                    float* acc) {
  const float m = Max(*max, max1);
  const float a = Exp1(*max - m);
  const float b = Exp1(max1 - m);
  *max = m;
  *sum = __builtin_fmaf(sum1, b, *sum * a);
  for (int d = 0; d < head_dim; ++d) acc[d] = __builtin_fmaf(acc1[d], b, acc[d] * a);
}

void Avx2StoreKv(KvType type, const float* k, const float* v, int head_dim, int slot, std::byte* k_block,
                 std::byte* v_block) {
  if (type == KvType::kF32) {
    StoreKv(type, k, v, head_dim, slot, k_block, v_block);
    return;
  }
  auto* const keys = reinterpret_cast<uint16_t*>(k_block) + slot;
  auto* const values = reinterpret_cast<uint16_t*>(v_block) + slot * head_dim;
  for (int d = 0; d < head_dim; ++d) keys[kKvBlockTokens * d] = _cvtss_sh(k[d], _MM_FROUND_TO_NEAREST_INT);
  int d = 0;
  for (; d + 8 <= head_dim; d += 8) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + d),
                     _mm256_cvtps_ph(_mm256_loadu_ps(v + d), _MM_FROUND_TO_NEAREST_INT));
  }
  for (; d < head_dim; ++d) values[d] = _cvtss_sh(v[d], _MM_FROUND_TO_NEAREST_INT);
}

}  // namespace
}  // namespace moepool
