// Attention with AVX2. Scores: 16 lanes are 16 keys, up to 4 queries share each load of K. Values: lanes are
// dimensions, keys ascend. Outer loops over arrays of registers are unrolled by pragma: GCC 12 unrolls them
// too late by itself, so that the arrays stay in memory and each fma is followed by a store.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

struct CacheF16 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 2;  // of an element or code
  static __m256 Load8(const std::byte* p) { return LoadHalf8(p); }
  static float Load1(const std::byte* p) { return _cvtsh_ss(LoadU16(p)); }
};
struct CacheBF16 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 2;
  static __m256 Load8(const std::byte* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static float Load1(const std::byte* p) { return BF16ToF32(LoadU16(p)); }
};
struct CacheF32 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 4;
  static __m256 Load8(const std::byte* p) { return _mm256_loadu_ps(reinterpret_cast<const float*>(p)); }
  static float Load1(const std::byte* p) { return LoadF32(p); }
};
struct CacheQ8_0 {
  static constexpr bool kQuantized = true;
  static constexpr int kBytes = 1;
  static __m256 Load8(const std::byte* p) {  // codes, not yet scaled
    const __m128i codes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
  }
};

// The block that holds `key` of the split, in s.k or s.v.
inline const std::byte* BlockOf(const RowSplit& s, const std::byte* half, int key) {
  return half + s.blocks[key / kKvBlockTokens] * s.block_bytes;
}

// Q8_0: the 16 scales of dimensions [d, d + 32).
inline const std::byte* ScalesOf(const RowSplit& s, const std::byte* block, int d) {
  return block + kKvBlockTokens * (s.head_dim + 2 * (d / kKvQuantBlock));
}

inline int FirstOfBlock(int key) { return key & ~(kKvBlockTokens - 1); }

// acc[h, b] = sum over dimensions [begin, end) of q[h, d] k[b][d, :], from zero. 2 H B independent chains of
// fma. Moves k on.
template <typename Cache, int H, int B>
inline void DotBlocks(const RowSplit& s, int begin, int end, const float* q, const std::byte* (&k)[B],
                      __m256 (&acc)[H][B][2]) {
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) acc[h][b][0] = acc[h][b][1] = _mm256_setzero_ps();
  }
  for (int d = begin; d < end; ++d) {
#pragma GCC unroll 8
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
}

// The same over all dimensions of a Q8_0 cache, the scales applied block by block.
template <int H, int B>
inline void ScaledDotBlocks(const RowSplit& s, const float* q, const std::byte* (&k)[B],
                            __m256 (&acc)[H][B][2]) {
  const std::byte* scales[B];
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
    scales[b] = ScalesOf(s, k[b], 0);
    for (int h = 0; h < H; ++h) acc[h][b][0] = acc[h][b][1] = _mm256_setzero_ps();
  }
  for (int d = 0; d < s.head_dim; d += kKvQuantBlock) {
    __m256 part[H][B][2];
    DotBlocks<CacheQ8_0, H, B>(s, d, d + kKvQuantBlock, q, k, part);
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) {
#pragma GCC unroll 8
      for (int i = 0; i < 2; ++i, scales[b] += 16) {
        const __m256 scale = LoadHalf8(scales[b]);
        for (int h = 0; h < H; ++h) acc[h][b][i] = _mm256_fmadd_ps(part[h][b][i], scale, acc[h][b][i]);
      }
    }
  }
}

// Scores of H queries, q [H, head_dim], with the 16 B keys from `first` on, to p [H, 256]. Lanes of keys that
// are not visible are -inf, of which exp makes 0.
template <typename Cache, int H, int B>
inline void ScoreBlocks(const RowSplit& s, int first, float scale, const float* q, float* p) {
  const std::byte* k[B];
  for (int b = 0; b < B; ++b) k[b] = BlockOf(s, s.k, first + b * kKvBlockTokens);
  __m256 acc[H][B][2];
  if constexpr (Cache::kQuantized) {
    ScaledDotBlocks<H, B>(s, q, k, acc);
  } else {
    DotBlocks<Cache, H, B>(s, 0, s.head_dim, q, k, acc);
  }
  const __m256 factor = _mm256_set1_ps(scale);
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
#pragma GCC unroll 8
  for (int b = 0; b < B; ++b) {
#pragma GCC unroll 8
    for (int i = 0; i < 2; ++i) {
      const int key = first + kKvBlockTokens * b + 8 * i;
      const __m256i hidden = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(s.begin - key), lane),
                                             _mm256_cmpgt_epi32(lane, _mm256_set1_epi32(s.end - 1 - key)));
      for (int h = 0; h < H; ++h) {
        const __m256 score = _mm256_blendv_ps(_mm256_mul_ps(acc[h][b][i], factor),
                                              _mm256_set1_ps(-__builtin_inff()), _mm256_castsi256_ps(hidden));
        _mm256_storeu_ps(p + h * kAttentionSplit + key, score);
      }
    }
  }
}

// Scores of all keys. A single query takes 4 blocks at once, two take 2: fewer chains would wait for the
// fma's latency.
template <typename Cache, int H>
void Scores(const RowSplit& s, float scale, const float* q, float* p) {
  constexpr int kBlocks = H == 1 ? 4 : H == 2 ? 2 : 1;
  int first = FirstOfBlock(s.begin);
  for (; first + kBlocks * kKvBlockTokens <= s.end; first += kBlocks * kKvBlockTokens) {
    ScoreBlocks<Cache, H, kBlocks>(s, first, scale, q, p);
  }
  for (; first < s.end; first += kKvBlockTokens) ScoreBlocks<Cache, H, 1>(s, first, scale, q, p);
}

// p <- exp(p - max) from the first block on; returns the maximum and the sum.
inline void Softmax(const RowSplit& s, float* p, float* max, float* sum) {
  const int first = FirstOfBlock(s.begin);
  __m256 m = _mm256_set1_ps(-__builtin_inff());
  for (int i = first; i < s.end; i += 8) m = _mm256_max_ps(_mm256_loadu_ps(p + i), m);
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, m);
  float largest = lanes[0];
  for (int i = 1; i < 8; ++i) largest = Max(lanes[i], largest);
  largest += 0.0f;  // so that the order in which +0 and -0 were compared does not show
  const __m256 all = _mm256_set1_ps(largest);
  __m256 a = _mm256_setzero_ps();
  __m256 b = _mm256_setzero_ps();
  for (int i = first; i < s.end; i += kKvBlockTokens) {
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

// acc[h, d] = sum over visible keys of p[h, key] v[key, d] for H queries and dimensions [d, d + 8 N). Of a
// Q8_0 cache these are whole blocks of 32 or lie within one.
template <typename Cache, int H, int N>
void Values(const RowSplit& s, const float* p, int d, float* acc) {
  constexpr int kRegisters = kKvQuantBlock / 8;  // that share a scale
  constexpr int kScales = Cache::kQuantized ? (N + kRegisters - 1) / kRegisters : 1;
  __m256 sum[H][N];
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) sum[h][i] = _mm256_setzero_ps();
  }
  for (int first = FirstOfBlock(s.begin); first < s.end; first += kKvBlockTokens) {
    const std::byte* const block = BlockOf(s, s.v, first);
    const int begin = s.begin > first ? s.begin : first;
    const int end = s.end < first + kKvBlockTokens ? s.end : first + kKvBlockTokens;
    alignas(32) float scaled[H][kScales][kKvBlockTokens];  // Q8_0: p times the scale
    if constexpr (Cache::kQuantized) {
#pragma GCC unroll 8
      for (int b = 0; b < kScales; ++b) {
        const std::byte* const scales = ScalesOf(s, block, d + b * kKvQuantBlock);
        for (int i = 0; i < kKvBlockTokens; i += 8) {
          const __m256 scale = LoadHalf8(scales + 2 * i);
          for (int h = 0; h < H; ++h) {
            const __m256 weight = _mm256_loadu_ps(p + h * kAttentionSplit + first + i);
            _mm256_store_ps(scaled[h][b] + i, _mm256_mul_ps(weight, scale));
          }
        }
      }
    }
    const std::byte* v = block + (int64_t{begin - first} * s.head_dim + d) * Cache::kBytes;
    for (int key = begin; key < end; ++key, v += s.head_dim * Cache::kBytes) {
      __m256 weight[H][kScales];
#pragma GCC unroll 8
      for (int h = 0; h < H; ++h) {
        for (int b = 0; b < kScales; ++b) {
          weight[h][b] = _mm256_broadcast_ss(Cache::kQuantized ? &scaled[h][b][key - first]
                                                               : p + h * kAttentionSplit + key);
        }
      }
#pragma GCC unroll 8
      for (int i = 0; i < N; ++i) {
        const __m256 value = Cache::Load8(v + 8 * i * Cache::kBytes);
        const int b = Cache::kQuantized ? i / kRegisters : 0;
        for (int h = 0; h < H; ++h) sum[h][i] = _mm256_fmadd_ps(weight[h][b], value, sum[h][i]);
      }
    }
  }
#pragma GCC unroll 8
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) _mm256_storeu_ps(acc + h * s.head_dim + d + 8 * i, sum[h][i]);
  }
}

// The last head_dim mod 8 dimensions.
template <typename Cache>
void ValuesTail(const RowSplit& s, const float* p, int heads, float* acc) {
  for (int d = s.head_dim & ~7; d < s.head_dim; ++d) {
    for (int h = 0; h < heads; ++h) {
      float sum = 0;
      for (int key = s.begin; key < s.end; ++key) {
        const int64_t element = key % kKvBlockTokens * s.head_dim + d;
        const std::byte* const v = BlockOf(s, s.v, key) + element * Cache::kBytes;
        sum = __builtin_fmaf(p[h * kAttentionSplit + key], Cache::Load1(v), sum);
      }
      acc[h * s.head_dim + d] = sum;
    }
  }
}

// 8 accumulators of the values (12 of 3 queries) where the head is wide enough, and fewer for what is left.
template <typename Cache, int H>
void AttendHeads(const RowSplit& s, float scale, const float* q, float* p, float* max, float* sum,
                 float* acc) {
  Scores<Cache, H>(s, scale, q, p);
  for (int h = 0; h < H; ++h) Softmax(s, p + h * kAttentionSplit, max + h, sum + h);
  constexpr int kWide = H == 1 ? 8 : H <= 3 ? 4 : 2;
  int d = 0;
  for (; d + 8 * kWide <= s.head_dim; d += 8 * kWide) Values<Cache, H, kWide>(s, p, d, acc);
  if constexpr (kWide > 4) {
    for (; d + 32 <= s.head_dim; d += 32) Values<Cache, H, 4>(s, p, d, acc);
  }
  if constexpr (!Cache::kQuantized) {
    if constexpr (kWide > 2) {
      for (; d + 16 <= s.head_dim; d += 16) Values<Cache, H, 2>(s, p, d, acc);
    }
    for (; d + 8 <= s.head_dim; d += 8) Values<Cache, H, 1>(s, p, d, acc);
    if (d < s.head_dim) ValuesTail<Cache>(s, p, H, acc);
  }
}

template <typename Cache>
void AttendAll(const RowSplit& s, int heads, float scale, const float* q, float* p, float* max, float* sum,
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

void Avx2AttendSplit(const KvSplit& split, const SplitRows& rows, float scale, float* scratch) {
  switch (split.type) {
    case KvType::kF16:
      return AttendRowByRow(split, rows, scale, scratch, AttendAll<CacheF16>);
    case KvType::kBF16:
      return AttendRowByRow(split, rows, scale, scratch, AttendAll<CacheBF16>);
    case KvType::kF32:
      return AttendRowByRow(split, rows, scale, scratch, AttendAll<CacheF32>);
    case KvType::kQ8_0:
      return AttendRowByRow(split, rows, scale, scratch, AttendAll<CacheQ8_0>);
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
  if (type != KvType::kF16) {
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
