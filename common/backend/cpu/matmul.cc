// See matmul.h.
#include "common/backend/cpu/matmul.h"

#include <algorithm>

#include "common/base/rounding.h"

namespace moepool {
namespace {

constexpr int64_t kChunksPerThread = 6;   // the last chunk to finish is then a small part of the whole
constexpr int64_t kChunkMacs = 64 << 10;  // a few microseconds, against about 0.2 for a hand-out
constexpr int64_t kParallelRows = 8;      // rows of sums below which one thread is faster

}  // namespace

void PreparedRows::Prepare(CpuDevice* device, const Activations& x, bool quantized, int threads) {
  rows_ = {};
  rows_.f32 = x.f32;
  rows_.cols = x.cols;
  if (!quantized) return;
  const int64_t blocks = x.cols / kQuantBlock;
  ActivationBlock* const prepared = blocks_.Get(x.rows * blocks);
  rows_.blocks = prepared;
  const auto prepare = [&](int64_t row) {
    device->kernels.activation_blocks(x.q + row * x.cols, x.scale + row * blocks, x.cols,
                                      prepared + row * blocks);
  };
  if (x.rows >= kParallelRows) {
    device->pool.ParallelFor(DivideUp<int64_t>(x.rows, kParallelRows), threads, [&](int64_t i) {
      const int64_t end = std::min<int64_t>(x.rows, (i + 1) * kParallelRows);
      for (int64_t row = i * kParallelRows; row < end; ++row) prepare(row);
    });
  } else {
    for (int64_t row = 0; row < x.rows; ++row) prepare(row);
  }
}

ActivationRows PreparedRows::Select(const int32_t* index, int64_t count) const {
  ActivationRows rows = rows_;
  rows.index = index;
  rows.count = count;
  return rows;
}

MatMulChunks::MatMulChunks(const PackedMatrix& w, int64_t tokens, int threads, int64_t group_multiple)
    : groups_(w.groups()), tokens_(tokens) {
  token_chunk_ = std::clamp<int64_t>(tokens, 1, kMaxTokens);
  token_chunks_ = DivideUp(tokens, token_chunk_);
  const int64_t balanced = DivideUp(groups_ * token_chunks_, kChunksPerThread * threads);
  const int64_t worthwhile = DivideUp(kChunkMacs, std::max<int64_t>(1, kGroupRows * w.cols * token_chunk_));
  group_chunk_ = std::clamp<int64_t>(std::max(balanced, worthwhile), 1, std::max<int64_t>(groups_, 1));
  group_chunk_ = DivideUp(group_chunk_, group_multiple) * group_multiple;
  group_chunks_ = DivideUp(groups_, group_chunk_);
}

MatMulChunk MatMulChunks::At(int64_t i) const {
  const int64_t token_begin = i % token_chunks_ * token_chunk_;
  const int64_t group_begin = i / token_chunks_ * group_chunk_;
  return {group_begin, std::min(groups_, group_begin + group_chunk_), token_begin,
          std::min(tokens_, token_begin + token_chunk_)};
}

}  // namespace moepool
