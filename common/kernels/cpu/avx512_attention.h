// Attention with AVX-512. Up to 12 queries, of any rows and heads of the call, form a tile: each register of
// K (16 keys of a dimension) and of V (16 dimensions of a key) is read and converted once for all of them,
// and 12 x 2 accumulators with their operands fill the 32 registers, so that loads and conversions hide
// behind the fma's two ports. Only keys that not all rows of a tile see are masked. Outer loops over arrays
// of registers are unrolled by pragma, as in avx2_attention.h.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx512_math.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

inline constexpr int kTileQueries = 12;
// Queries of a tile lie this far apart: a constant, so that one pointer reaches all; not a multiple of 4 KiB
// or of a power of two lines, so that they do not share L1 sets.
inline constexpr int kQueryStride = kMaxHeadDim + 16;

struct CacheF16 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 2;  // of an element or code
  static __m512 Load16(const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 Load(__mmask16 lanes, const std::byte* p) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
  }
};
struct CacheBF16 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 2;
  static __m512 Load16(const std::byte* p) {
    return Widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static __m512 Load(__mmask16 lanes, const std::byte* p) {
    return Widen(_mm256_maskz_loadu_epi16(lanes, p));
  }

 private:
  static __m512 Widen(__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
};
struct CacheF32 {
  static constexpr bool kQuantized = false;
  static constexpr int kBytes = 4;
  static __m512 Load16(const std::byte* p) { return _mm512_loadu_ps(p); }
  static __m512 Load(__mmask16 lanes, const std::byte* p) { return _mm512_maskz_loadu_ps(lanes, p); }
};
struct CacheQ8_0 {
  static constexpr bool kQuantized = true;
  static constexpr int kBytes = 1;
  static __m512 Load16(const std::byte* p) {  // codes, not yet scaled
    const __m128i codes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
  }
};

struct QueryTile {
  const float* q;  // [queries], kQueryStride apart
  float* p;        // [queries, 256]: scores, then their exponentials
  int begin[kTileQueries];
  int end[kTileQueries];
  float* max[kTileQueries];
  float* sum[kTileQueries];
  float* acc[kTileQueries];
  // Over the tile. Rows ascend, so that keys [last_begin, first_end) are seen by all.
  int first_begin, last_begin, first_end, last_end;
};

inline const std::byte* BlockOf(const KvSplit& s, const std::byte* half, int key) {
  return half + s.blocks[key / kKvBlockTokens] * s.block_bytes;
}

inline __m512 LoadScales(const KvSplit& s, const std::byte* block, int d) {
  return CacheF16::Load16(block + kKvBlockTokens * (s.head_dim + 2 * (d / kKvQuantBlock)));
}

inline int FirstOfBlock(int key) { return key & ~(kKvBlockTokens - 1); }

// Few queries leave memory to be waited for, and the hardware's prefetcher stops at the end of each block. So
// while 16 B keys are worked on, the 16 B after them are fetched: keys of the split, then values.
template <int H>
inline constexpr bool kFetchAhead = H <= 8;

// The block of K, or of V, that holds `key`; past the last visible one of K follow those of V, then those of
// the next head's K, then null.
inline const std::byte* BlockAhead(const KvSplit& s, const QueryTile& t, bool values, int key) {
  const int first = FirstOfBlock(t.first_begin);
  const int keys = FirstOfBlock(t.last_end + kKvBlockTokens - 1) - first;
  const int place = key - first + (values ? keys : 0);
  if (place < keys) return BlockOf(s, s.k, first + place);
  if (place < 2 * keys) return BlockOf(s, s.v, first + place - keys);
  return place < 3 * keys && s.next_k != nullptr ? BlockOf(s, s.next_k, first + place - 2 * keys) : nullptr;
}

inline void Fetch(const std::byte* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }

// --- Scores ---

// acc[h, b] = sum over dimensions [begin, end) of q[h, d] k[b][d, :], from zero: H B independent chains.
template <typename Cache, int H, int B>
inline void DotBlocks(int begin, int end, const float* q, const std::byte* const (&k)[B],
                      const std::byte* const (&ahead)[B], __m512 (&acc)[H][B]) {
#pragma GCC unroll 16
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) acc[h][b] = _mm512_setzero_ps();
  }
  for (int64_t d = begin; d < end; ++d) {
    __m512 key[B];
#pragma GCC unroll 16
    for (int b = 0; b < B; ++b) {
      key[b] = Cache::Load16(k[b] + d * (kKvBlockTokens * Cache::kBytes));
      if constexpr (kFetchAhead<H>) Fetch(ahead[b] + d * (kKvBlockTokens * Cache::kBytes));
    }
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h) {
      const __m512 v = _mm512_set1_ps(q[h * kQueryStride + d]);
      for (int b = 0; b < B; ++b) acc[h][b] = _mm512_fmadd_ps(key[b], v, acc[h][b]);
    }
  }
}

// Scores of H queries with the 16 B keys from `first` on. Keys of these blocks that a query does not see get
// -inf, of which exp makes 0.
template <typename Cache, int H, int B>
inline void ScoreBlocks(const KvSplit& s, const QueryTile& t, int first, float scale) {
  const std::byte* k[B];
  for (int b = 0; b < B; ++b) k[b] = BlockOf(s, s.k, first + b * kKvBlockTokens);
  const std::byte* ahead[B];
  for (int b = 0; kFetchAhead<H> && b < B; ++b) {
    ahead[b] = BlockAhead(s, t, false, first + (B + b) * kKvBlockTokens);
    if (ahead[b] == nullptr) ahead[b] = k[b];
  }
  float* const p = t.p + first;
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 acc[H][B];
  if constexpr (!Cache::kQuantized) {
    DotBlocks<Cache, H, B>(0, s.head_dim, t.q, k, ahead, acc);
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h) {
      for (int b = 0; b < B; ++b) {
        _mm512_storeu_ps(p + h * kAttentionSplit + b * kKvBlockTokens, _mm512_mul_ps(acc[h][b], factor));
      }
    }
  } else {
    // The sums over blocks of 32 dimensions stay in p: 2 H B registers are too many.
    for (int d = 0; d < s.head_dim; d += kKvQuantBlock) {
      DotBlocks<Cache, H, B>(d, d + kKvQuantBlock, t.q, k, ahead, acc);
      const bool last = d + kKvQuantBlock == s.head_dim;
      __m512 scales[B];
#pragma GCC unroll 16
      for (int b = 0; b < B; ++b) scales[b] = LoadScales(s, k[b], d);
#pragma GCC unroll 16
      for (int h = 0; h < H; ++h) {
        for (int b = 0; b < B; ++b) {
          float* const at = p + h * kAttentionSplit + b * kKvBlockTokens;
          const __m512 before = d == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(at);
          const __m512 sum = _mm512_fmadd_ps(acc[h][b], scales[b], before);
          _mm512_storeu_ps(at, last ? _mm512_mul_ps(sum, factor) : sum);
        }
      }
    }
  }
  if (first >= t.last_begin && first + B * kKvBlockTokens <= t.first_end) return;
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int h = 0; h < H; ++h) {
    for (int b = 0; b < B; ++b) {
      const __m512i key = _mm512_add_epi32(lane, _mm512_set1_epi32(first + b * kKvBlockTokens));
      const __mmask16 hidden = _mm512_cmplt_epi32_mask(key, _mm512_set1_epi32(t.begin[h])) |
                               _mm512_cmpge_epi32_mask(key, _mm512_set1_epi32(t.end[h]));
      _mm512_mask_storeu_ps(p + h * kAttentionSplit + b * kKvBlockTokens, hidden,
                            _mm512_set1_ps(-__builtin_inff()));
    }
  }
}

// Scores of all keys from `first` on, B blocks at once.
template <typename Cache, int H, int B>
inline void Scores(const KvSplit& s, const QueryTile& t, int first, float scale) {
  for (; first + (B - 1) * kKvBlockTokens < t.last_end; first += B * kKvBlockTokens) {
    ScoreBlocks<Cache, H, B>(s, t, first, scale);
  }
  if constexpr (B > 1) Scores<Cache, H, B / 2>(s, t, first, scale);
}

// p <- exp(p - max) of the blocks that each query sees. Maxima first, of all queries: the next query's start
// then does not wait for the end of the one before.
template <int H>
inline void Softmax(const QueryTile& t) {
  for (int h = 0; h < H; ++h) {
    const float* const p = t.p + h * kAttentionSplit;
    __m512 m = _mm512_set1_ps(-__builtin_inff());
    for (int i = FirstOfBlock(t.begin[h]); i < t.end[h]; i += 16)
      m = _mm512_max_ps(_mm512_loadu_ps(p + i), m);
    // Adding 0 hides the order in which +0 and -0 were compared.
    *t.max[h] = _mm512_reduce_max_ps(m) + 0.0f;
  }
  for (int h = 0; h < H; ++h) {
    float* const p = t.p + h * kAttentionSplit;
    const __m512 max = _mm512_set1_ps(*t.max[h]);
    __m512 total = _mm512_setzero_ps();
    for (int i = FirstOfBlock(t.begin[h]); i < t.end[h]; i += 16) {
      const __m512 power = ExpBelowOverflow(_mm512_sub_ps(_mm512_loadu_ps(p + i), max));
      _mm512_storeu_ps(p + i, power);
      total = _mm512_add_ps(total, power);
    }
    *t.sum[h] = TreeSum(total);
  }
}

// --- Values ---

// Some of a block's keys and what is added of them.
struct ValueRun {
  int begin;  // keys [begin, end) of the split
  int end;
  const std::byte* v;  // of the first key, from the first dimension on
  const std::byte* ahead;
  int64_t key_bytes;
  const float* weights;  // of key 0 of the split, or of the block in Q8_0, where scales are in them
};

// acc[h, i] += weights[h, key] v[key, 16 i ...], keys ascending. Two loops, as one that chooses key by key
// cannot hide its loads behind the fma's.
template <typename Cache, int H, int N, bool kMasked>
inline void AddValues(const QueryTile& t, const ValueRun& run, __mmask16 lanes, __m512 (&acc)[H][N]) {
  constexpr int kScales = Cache::kQuantized ? N / 2 : 1;
  constexpr int kWeightStride = Cache::kQuantized ? kScales * kKvBlockTokens : kAttentionSplit;
  const std::byte* v = run.v;
  const std::byte* ahead = run.ahead;
  const float* weights = run.weights;
  for (int key = run.begin; key < run.end; ++key, ++weights, v += run.key_bytes, ahead += run.key_bytes) {
    __m512 value[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if constexpr (N == 1) {
        value[i] = Cache::Load(lanes, v);
      } else {
        value[i] = Cache::Load16(v + 16 * i * Cache::kBytes);
      }
      if (16 * i * Cache::kBytes % 64 == 0) Fetch(ahead + 16 * i * Cache::kBytes);
    }
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h) {
      const __mmask16 seen = !kMasked || (key >= t.begin[h] && key < t.end[h]) ? kAllLanes : 0;
      for (int i = 0; i < N; ++i) {
        const __m512 weight = _mm512_set1_ps(weights[h * kWeightStride + i / 2 % kScales * kKvBlockTokens]);
        if constexpr (kMasked) {
          acc[h][i] = _mm512_mask3_fmadd_ps(weight, value[i], acc[h][i], seen);
        } else {
          acc[h][i] = _mm512_fmadd_ps(weight, value[i], acc[h][i]);
        }
      }
    }
  }
}

// acc[h, d] = sum over visible keys of p[h, key] v[key, d], keys ascending, for dimensions [d, d + 16 N), of
// which a single register (N = 1) may be partly past the head; of a Q8_0 cache they are whole blocks of 32.
// Continues from acc, or begins, with the visible ones of kKeys keys from `from` on, a multiple of 16.
template <typename Cache, int H, int N, int kKeys>
inline void Values(const KvSplit& s, const QueryTile& t, int from, int d) {
  constexpr int kScales = Cache::kQuantized ? N / 2 : 1;
  // Where queries are many, V comes from L2, but a line of each key's four or so at a time, which the
  // prefetcher does not follow.
  constexpr int kAhead = kFetchAhead<H> ? kKeys : kKvBlockTokens;
  const __mmask16 lanes = N == 1 && s.head_dim - d < 16 ? FirstLanes(s.head_dim - d) : kAllLanes;
  const int64_t key_bytes = s.head_dim * Cache::kBytes;
  const int to = t.last_end < from + kKeys ? t.last_end : from + kKeys;
  const bool begins = from <= t.first_begin;
  __m512 acc[H][N];
#pragma GCC unroll 16
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) {
      acc[h][i] = begins ? _mm512_setzero_ps() : Load(lanes, t.acc[h] + d + 16 * i);
    }
  }
  for (int first = from; first < to; first += kKvBlockTokens) {
    const std::byte* const block = BlockOf(s, s.v, first);
    alignas(64) float scaled[Cache::kQuantized ? H * kScales : 1][kKvBlockTokens];  // p times the scale
    if constexpr (Cache::kQuantized) {
      for (int b = 0; b < kScales; ++b) {
        const __m512 scales = LoadScales(s, block, d + b * kKvQuantBlock);
        for (int h = 0; h < H; ++h) {
          const __m512 weight = _mm512_loadu_ps(t.p + h * kAttentionSplit + first);
          _mm512_store_ps(scaled[h * kScales + b], _mm512_mul_ps(weight, scales));
        }
      }
    }
    const int begin = t.first_begin > first ? t.first_begin : first;
    const int end = to < first + kKvBlockTokens ? to : first + kKvBlockTokens;
    const int64_t offset = (begin - first) * key_bytes + d * Cache::kBytes;
    const std::byte* const ahead = BlockAhead(s, t, true, first + kAhead);
    const ValueRun run = {
        .begin = begin,
        .end = end,
        .v = block + offset,
        .ahead = (ahead == nullptr ? block : ahead) + offset,
        .key_bytes = key_bytes,
        .weights = Cache::kQuantized ? scaled[0] + (begin - first) : t.p + begin,
    };
    if (begin >= t.last_begin && end <= t.first_end) {
      AddValues<Cache, H, N, false>(t, run, lanes, acc);
    } else {
      AddValues<Cache, H, N, true>(t, run, lanes, acc);
    }
  }
#pragma GCC unroll 16
  for (int h = 0; h < H; ++h) {
    for (int i = 0; i < N; ++i) Store(t.acc[h] + d + 16 * i, lanes, acc[h][i]);
  }
}

// All dimensions from d on, N registers at once.
template <typename Cache, int H, int N, int kKeys>
inline void AllValues(const KvSplit& s, const QueryTile& t, int from, int d) {
  constexpr int kLast = Cache::kQuantized ? 2 : 1;
  for (; N == 1 ? d < s.head_dim : d + 16 * N <= s.head_dim; d += 16 * N) {
    Values<Cache, H, N, kKeys>(s, t, from, d);
  }
  if constexpr (N > kLast) AllValues<Cache, H, N / 2, kKeys>(s, t, from, d);
}

// --- The call ---

template <typename Cache, int H>
void AttendTile(const KvSplit& s, const QueryTile& t, float scale) {
  constexpr int kWide = H > 4 ? 2 : H > 2 ? 4 : 8;
  const int first = FirstOfBlock(t.first_begin);
  Scores<Cache, H, kWide>(s, t, first, scale);
  Softmax<H>(t);
  // All of V for one part of the dimensions, or, where it comes from memory, 64 or 128 keys for all parts.
  constexpr int kKeys = kFetchAhead<H> ? (H > 2 ? 64 : 128) : kAttentionSplit;
  for (int from = first; from < t.last_end; from += kKeys) AllValues<Cache, H, kWide, kKeys>(s, t, from, 0);
}

// Queries [first, first + H) of the call, counted row by row.
template <typename Cache, int H>
void AttendQueries(const KvSplit& s, const SplitRows& rows, int first, float scale, float* scratch) {
  QueryTile t;
  t.p = scratch;
  float* const q = scratch + kTileQueries * kAttentionSplit;
  t.q = q;
  for (int i = 0; i < H; ++i) {
    const int row = (first + i) / rows.heads;
    const int head = (first + i) % rows.heads;
    const float* const from = rows.q + row * rows.q_stride + head * s.head_dim;
    ForLanes(s.head_dim, [&](int64_t d, __mmask16 lanes) {
      Store(q + i * kQueryStride + d, lanes, Load(lanes, from + d));
    });
    t.begin[i] = rows.begin[row];
    t.end[i] = rows.end[row];
    float* const out = rows.out + row * rows.out_stride;
    t.max[i] = out + head;
    t.sum[i] = out + rows.heads + head;
    t.acc[i] = out + 2 * rows.heads + head * s.head_dim;
  }
  t.first_begin = t.begin[0];
  t.last_begin = t.begin[H - 1];
  t.first_end = t.end[0];
  t.last_end = t.end[H - 1];
  AttendTile<Cache, H>(s, t, scale);
}

template <typename Cache>
void AttendAll(const KvSplit& s, const SplitRows& rows, float scale, float* scratch) {
  const int queries = rows.rows * rows.heads;
  int i = 0;
  for (; i + 12 <= queries; i += 12) AttendQueries<Cache, 12>(s, rows, i, scale, scratch);
  if (queries - i >= 8) AttendQueries<Cache, 8>(s, rows, i, scale, scratch), i += 8;
  if (queries - i >= 4) AttendQueries<Cache, 4>(s, rows, i, scale, scratch), i += 4;
  if (queries - i >= 3) AttendQueries<Cache, 3>(s, rows, i, scale, scratch), i += 3;
  if (queries - i >= 2) AttendQueries<Cache, 2>(s, rows, i, scale, scratch), i += 2;
  if (queries - i >= 1) AttendQueries<Cache, 1>(s, rows, i, scale, scratch);
}

void Avx512AttendSplit(const KvSplit& split, const SplitRows& rows, float scale, float* scratch) {
  switch (split.type) {
    case KvType::kF16:
      return AttendAll<CacheF16>(split, rows, scale, scratch);
    case KvType::kBF16:
      return AttendAll<CacheBF16>(split, rows, scale, scratch);
    case KvType::kF32:
      return AttendAll<CacheF32>(split, rows, scale, scratch);
    case KvType::kQ8_0:
      return AttendAll<CacheQ8_0>(split, rows, scale, scratch);
  }
}

}  // namespace
}  // namespace moepool
