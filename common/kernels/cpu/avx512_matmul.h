// Products of quantised weights with AVX-512 VNNI. A register holds 16 rows x 4 columns of codes; VPDPBUSD
// multiplies them by a token's 4 columns, broadcast, and adds to 16 integer sums. Codes are unsigned; what a
// format's stand above their values (8, 16, 32 or 128) is taken off by starting the sums at minus that times
// the sum of the token's codes, which is exact.
//
// Up to 8 tokens the weights come from memory: one group at a time, so that they are one stream, each line
// asked for 8 KiB ahead. That gives 92 % of what reading alone does, 2 or 4 groups side by side 65 to 75 %.
//
// More tokens compute: 2 groups x 6 tokens. Per block, group and token that is 8 VPDPBUSD and, on the same
// two ports, 2 or 3 multiplications of scales (5 with a scale a half), so at most 80, 73 and 67 % of the peak
// of VPDPBUSD; 76, 68 and 57 % are reached. 12 chains hide a latency of 4 to 5 at 2 a cycle; 12 integer sums,
// 12 accumulators, 4 registers of codes, a broadcast and masks fit the 32 registers; and a broadcast serves 2
// groups, as with one the loads, 2 a cycle, are the limit. Unpacking again for each 6 tokens runs on ports
// that are idle: unpacking once to memory gained nothing at 128 tokens and lost an eighth at 16.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx512_formats.h"
#include "common/kernels/cpu/avx512_tile.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

constexpr int64_t kStreamAheadBytes = 8192;  // 2, 4 and 16 KiB give 14, 8 and 6 % less
constexpr int kStreamTokens = 8;
constexpr int kTileTokens = 6;    // 5 is 2 % faster from 64 tokens on and 3 % slower at 12 and 16
constexpr int kSmallestTile = 4;  // of more than kStreamTokens tokens in nearly equal tiles

inline __m512i BroadcastQuad(const int8_t* q) {
  int32_t v;
  __builtin_memcpy(&v, q, sizeof v);
  return _mm512_set1_epi32(v);
}

// One pair of quads of G groups times T tokens.
template <typename Format, int G, int T, int v>
inline void AddPair(const uint8_t* const (&codes)[G], const ActivationBlock* const (&x)[T],
                    __m512i (&low)[G][T], __m512i (&high)[G][T]) {
  QuadPair w[G];
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g) w[g] = Format::Codes::template Pair<v>(codes[g]);
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    const __m512i xl = BroadcastQuad(x[t]->q + 4 * v);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) low[g][t] = _mm512_dpbusd_epi32(low[g][t], w[g].low, xl);
    const __m512i xh = BroadcastQuad(x[t]->q + 4 * v + 16);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) high[g][t] = _mm512_dpbusd_epi32(high[g][t], w[g].high, xh);
  }
}

// One block of G groups times T tokens. Formats with a scale for each half of it keep two sums, others one.
template <typename Format, int G, int T>
inline void Step(const BlockBytes (&w)[G], const ActivationBlock* const (&x)[T], __m512 (&acc)[G][T]) {
  const uint8_t* codes[G];
  __m512i low[G][T];
#pragma GCC unroll 16
  for (int g = 0; g < G; ++g) codes[g] = w[g].codes;
  if constexpr (Format::kHalves) {
    __m512i high[G][T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i s0 = Format::Start0(*x[t]);
      const __m512i s1 = Format::Start1(*x[t]);
#pragma GCC unroll 16
      for (int g = 0; g < G; ++g) low[g][t] = s0, high[g][t] = s1;
    }
    AddPair<Format, G, T, 0>(codes, x, low, high);
    AddPair<Format, G, T, 1>(codes, x, low, high);
    AddPair<Format, G, T, 2>(codes, x, low, high);
    AddPair<Format, G, T, 3>(codes, x, low, high);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) {
      const typename Format::Scales scales = Format::Load(w[g]);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) acc[g][t] = Format::Add(acc[g][t], low[g][t], high[g][t], scales, *x[t]);
    }
  } else {
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) {
      const __m512i start = Format::Start(*x[t]);
#pragma GCC unroll 16
      for (int g = 0; g < G; ++g) low[g][t] = start;
    }
    AddPair<Format, G, T, 0>(codes, x, low, low);
    AddPair<Format, G, T, 1>(codes, x, low, low);
    AddPair<Format, G, T, 2>(codes, x, low, low);
    AddPair<Format, G, T, 3>(codes, x, low, low);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) {
      const typename Format::Scales scales = Format::Load(w[g]);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) acc[g][t] = Format::Add(acc[g][t], low[g][t], scales, *x[t]);
    }
  }
}

// Asks for `lines` cache lines from `p` on.
template <_mm_hint kHint>
inline void Prefetch(const uint8_t* p, int64_t lines) {
  for (int64_t i = 0; i < lines; ++i) _mm_prefetch(reinterpret_cast<const char*>(p + 64 * i), kHint);
}

// What a tile asks for ahead: `lines` cache lines a block from `from` on.
struct Ahead {
  const uint8_t* from;
  int64_t lines;
};

// G groups times T tokens over all blocks. kStream: the weights come from memory, one group after the other.
template <typename Format, int G, int T, bool kStream>
inline void VnniTile(const PackedWeights& w, int64_t group, const ActivationRows& x, int64_t token,
                     Ahead ahead, float* out, int64_t out_stride) {
  constexpr int64_t kBlockBytes = Format::kScales + Format::kCodes;
  const ActivationBlock* row[T];
  __m512 acc[G][T];
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
    row[t] = x.blocks + x.index[token + t] * (x.cols / kQuantBlock);
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) acc[g][t] = _mm512_setzero_ps();
  }
  BlockCursor<Format> cursor(w.data + group * w.group_bytes, w.first_sub_block);
  for (int64_t b = 0; b < w.blocks; ++b) {
    const BlockBytes first = cursor.Next();
    if constexpr (kStream) {
      Prefetch<_MM_HINT_T0>(first.scales + kStreamAheadBytes, (kBlockBytes + 63) / 64);
    } else {
      Prefetch<_MM_HINT_T1>(ahead.from, ahead.lines);
      ahead.from += 64 * ahead.lines;
    }
    BlockBytes block[G];
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) {
      block[g] = {first.scales + g * w.group_bytes, first.codes + g * w.group_bytes,
                  Format::kSupers != 0 ? first.supers + g * w.group_bytes : nullptr};
    }
    Step<Format, G, T>(block, row, acc);
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) ++row[t];
  }
#pragma GCC unroll 16
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 16
    for (int g = 0; g < G; ++g) {
      _mm512_storeu_ps(out + (token + t) * out_stride + g * kGroupRows, acc[g][t]);
    }
  }
}

// At most kStreamTokens tokens.
template <typename Format>
void StreamGroups(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                  float* out, int64_t out_stride) {
  WithCount<1, kStreamTokens>(x.count, [&](auto tokens) {
    for (int64_t g = group_begin; g < group_end; ++g, out += kGroupRows) {
      VnniTile<Format, 1, decltype(tokens)::kValue, true>(w, g, x, 0, {}, out, out_stride);
    }
  });
}

// G groups times all tokens, in tiles of nearly the same size.
template <typename Format, int G>
inline void TileGroups(const PackedWeights& w, int64_t g, bool more, const ActivationRows& x, float* out,
                       int64_t out_stride) {
  const int64_t tiles = (x.count + kTileTokens - 1) / kTileTokens;
  // The tiles share the lines of the groups that come next.
  Ahead ahead = {w.data + (g + G) * w.group_bytes, 0};
  if (more && w.blocks > 0) {
    ahead.lines = (G * w.group_bytes / 64 + tiles * w.blocks - 1) / (tiles * w.blocks);
  }
  ForTiles<kTileTokens, kSmallestTile>(x.count, [&](int64_t begin, auto tokens) {
    VnniTile<Format, G, decltype(tokens)::kValue, false>(w, g, x, begin, ahead, out, out_stride);
    ahead.from += 64 * ahead.lines * w.blocks;
  });
}

template <typename Format>
void VnniMatMul(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                float* out, int64_t out_stride) {
  if (x.count <= kStreamTokens) {
    if (x.count > 0) StreamGroups<Format>(w, group_begin, group_end, x, out, out_stride);
    return;
  }
  int64_t g = group_begin;
  for (; g + 2 <= group_end; g += 2, out += 2 * kGroupRows) {
    TileGroups<Format, 2>(w, g, g + 2 < group_end, x, out, out_stride);
  }
  if (g < group_end) TileGroups<Format, 1>(w, g, false, x, out, out_stride);
}

}  // namespace
}  // namespace moepool
