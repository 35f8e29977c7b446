// Products of a group of 16 output rows with some tokens, for all kernels that have one. Sums run as
// scalar_matmul.h has them: blocks (or columns) in ascending order, in one place, from zero.
#pragma once

#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/cuda/formats.cuh"
#include "common/kernels/cuda/simt.h"

namespace moepool {
namespace {

constexpr int kGroup = 16;      // output rows interleaved in packed weights
constexpr int kTileTokens = 8;  // columns of simt.h's MultiplyBytes

// The tokens of a product: `count` rows of x, those that `index` names or the neighbours from `first` on.
struct Tokens {
  RowForms x;
  int cols = 0;
  const int32_t* index = nullptr;
  int first = 0;
  int count = 0;
  SIMT_DEVICE int Row(int token) const { return index != nullptr ? index[token] : first + token; }
};

// --- Quantised weights: a warp ---

// Walks a group's blocks. Superscales stand before the first block of each super-block.
template <typename Format>
struct BlockWalk {
  const uint8_t* at;
  const uint8_t* supers = nullptr;
  int sub_block;
  SIMT_DEVICE BlockWalk(const DeviceWeights& w, int group)
      : at(w.data + group * w.group_bytes), sub_block(w.first_sub_block) {}
  // The block's scales and codes.
  SIMT_DEVICE const uint8_t* Next() {
    if constexpr (Format::kSupers != 0) {
      if (supers == nullptr || sub_block == 8) {
        supers = at;
        at += Format::kSupers;
        sub_block &= 7;
      }
      ++sub_block;
    }
    const uint8_t* const block = at;
    at += Format::kScales + Format::kCodes;
    return block;
  }
};

// acc[n][i] = the sums of rows g + 8 (i / 2) of the group and tokens 8 n + 2 t + i % 2, lane = 4 g + t.
// Tokens past the count are zeros. All lanes of the warp take part.
template <typename Format, int kTiles>
SIMT_DEVICE void MultiplyGroup(const DeviceWeights& w, int group, const Tokens& tokens,
                               float (&acc)[kTiles][4]) {
  // Blocks whose weights are asked for before the first is used.
  constexpr int kAhead = kTiles == 1 ? 4 : 2;
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int g = lane / 4;
  const int t = lane % 4;
  const int blocks = w.blocks;
  const int8_t* codes[kTiles];     // of token 8 n + g, at quad t
  const float* scales[kTiles][2];  // of tokens 8 n + 2 t and the next
  SIMT_UNROLL
  for (int n = 0; n < kTiles; ++n) {
    const int token = kTileTokens * n + g;
    codes[n] = token < tokens.count
                   ? tokens.x.q + static_cast<int64_t>(tokens.Row(token)) * tokens.cols + 4 * t
                   : nullptr;
    SIMT_UNROLL
    for (int i = 0; i < 2; ++i) {
      const int column = kTileTokens * n + 2 * t + i;
      scales[n][i] = column < tokens.count
                         ? tokens.x.scale + static_cast<int64_t>(tokens.Row(column)) * (tokens.cols / 32)
                         : nullptr;
    }
    SIMT_UNROLL
    for (int i = 0; i < 4; ++i) acc[n][i] = 0;
  }
  BlockWalk<Format> walk(w, group);
  for (int begin = 0; begin < blocks; begin += kAhead) {
    typename Format::Raw raw[kAhead];
    SIMT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      if (begin + i >= blocks) break;
      const uint8_t* const block = walk.Next();
      Format::Load(block, walk.supers, g, t, &raw[i]);
    }
    SIMT_UNROLL
    for (int i = 0; i < kAhead; ++i) {
      const int block = begin + i;
      if (block >= blocks) break;
      uint32_t a[4];
      raw[i].codes.Quads(t, a);
      SIMT_UNROLL
      for (int n = 0; n < kTiles; ++n) {
        if (kTileTokens * n >= tokens.count) break;
        uint32_t b[2] = {0, 0};
        if (codes[n] != nullptr) {
          b[0] = simt::Load4(codes[n] + 32 * block);
          b[1] = simt::Load4(codes[n] + 32 * block + 16);
        }
        TokenBlock x;
        SIMT_UNROLL
        for (int j = 0; j < 2; ++j) x.scale[j] = scales[n][j] != nullptr ? scales[n][j][block] : 0.0f;
        Format::Accumulate(raw[i], a, b, x, acc[n]);
      }
    }
  }
}

template <DType kType>
struct FormatOf;
#define MOEPOOL_FORMAT(format)        \
  template <>                         \
  struct FormatOf<DType::k##format> { \
    using Format = format;            \
  };
#define MOEPOOL_FORMATS(F) \
  F(Q4_0) F(Q4_1) F(Q5_0) F(Q5_1) F(Q8_0) F(Q2_K) F(Q3_K) F(Q4_K) F(Q5_K) F(Q6_K) F(IQ4_NL) F(MXFP4)
MOEPOOL_FORMATS(MOEPOOL_FORMAT)
#undef MOEPOOL_FORMAT

// The same by the type of the weights, for kernels that see several.
template <int kTiles>
SIMT_DEVICE void MultiplyGroup(const DeviceWeights& w, int group, const Tokens& tokens,
                               float (&acc)[kTiles][4]) {
  switch (w.dtype) {
#define MOEPOOL_CASE(format) \
  case DType::k##format:     \
    return MultiplyGroup<format, kTiles>(w, group, tokens, acc);
    MOEPOOL_FORMATS(MOEPOOL_CASE)
#undef MOEPOOL_CASE
    default:
      return;  // the host checks
  }
}

// Weights of one type, known when the kernel is compiled; kAnyType: of several, found out when it runs, which
// takes the registers of the greediest.
constexpr int kAnyType = -1;
template <int kType, int kTiles>
SIMT_DEVICE void MultiplyGroupOf(const DeviceWeights& w, int group, const Tokens& tokens,
                                 float (&acc)[kTiles][4]) {
  if constexpr (kType == kAnyType) {
    MultiplyGroup<kTiles>(w, group, tokens, acc);
  } else {
    MultiplyGroup<typename FormatOf<static_cast<DType>(kType)>::Format, kTiles>(w, group, tokens, acc);
  }
}

// --- F32, F16 and BF16: a block of 256 threads, one sum each ---

constexpr int kPlainThreads = 256;
constexpr int kPlainTokens = kPlainThreads / kGroup;
constexpr int kPlainColumns = 128;               // in shared memory at once
constexpr int kPlainStride = kPlainColumns + 1;  // of a token there, so that two tokens differ in bank

// Shared memory of a plain product.
struct PlainTiles {
  float* weights;  // [kPlainColumns, kGroup]
  float* tokens;   // [kPlainTokens, kPlainStride]
};
constexpr int kPlainTileFloats = kPlainColumns * kGroup + kPlainTokens * kPlainStride;

SIMT_DEVICE float PlainWeight(const DeviceWeights& w, const uint8_t* group, int i) {
  switch (w.dtype) {
    case DType::kF32:
      return simt::BitsFloat(simt::Load4(group + 4 * i));
    case DType::kF16:
      return HalfToFloat(simt::Load2(group + 2 * i));
    default:
      return Bf16ToFloat(simt::Load2(group + 2 * i));
  }
}

// The sum of row thread % 16 of the group and token thread / 16. All threads of the block take part; at most
// kPlainTokens tokens.
SIMT_DEVICE float MultiplyPlainGroup(const DeviceWeights& w, int group, const Tokens& tokens,
                                     const PlainTiles& tiles) {
  constexpr int kWeights = kPlainColumns * kGroup / kPlainThreads;  // that a thread loads
  constexpr int kValues = kPlainTokens * kPlainColumns / kPlainThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const uint8_t* const data = w.data + group * w.group_bytes;
  const int cols = w.blocks;
  float weights[kWeights];
  float values[kValues];
  const auto load = [&](int begin) {
    SIMT_UNROLL
    for (int i = 0; i < kWeights; ++i) {
      const int at = begin * kGroup + i * kPlainThreads + thread;
      weights[i] = at < cols * kGroup ? PlainWeight(w, data, at) : 0.0f;
    }
    SIMT_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int token = (i * kPlainThreads + thread) / kPlainColumns;
      const int col = begin + thread % kPlainColumns;
      const bool there = token < tokens.count && col < cols;
      values[i] = there ? tokens.x.f32[static_cast<int64_t>(tokens.Row(token)) * tokens.cols + col] : 0.0f;
    }
  };
  float acc = 0;
  load(0);
  for (int begin = 0; begin < cols; begin += kPlainColumns) {
    SIMT_UNROLL
    for (int i = 0; i < kWeights; ++i) tiles.weights[i * kPlainThreads + thread] = weights[i];
    SIMT_UNROLL
    for (int i = 0; i < kValues; ++i) {
      const int token = (i * kPlainThreads + thread) / kPlainColumns;
      tiles.tokens[token * kPlainStride + thread % kPlainColumns] = values[i];
    }
    simt::SyncThreads();
    if (begin + kPlainColumns < cols) load(begin + kPlainColumns);  // while the sums go on
    const int n = cols - begin < kPlainColumns ? cols - begin : kPlainColumns;
    const float* const x = tiles.tokens + thread / kGroup * kPlainStride;
    for (int c = 0; c < n; ++c) acc = simt::Fma(tiles.weights[c * kGroup + thread % kGroup], x[c], acc);
    simt::SyncThreads();
  }
  return acc;
}

}  // namespace
}  // namespace moepool
