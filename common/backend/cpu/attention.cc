// See attention.h.
#include "common/backend/cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace moepool {
namespace {

// Queries that share a KV head and are taken together: four tiles of the AVX-512 kernel, so that a split's K
// and V (128 KiB for 128 dimensions in F16) come from L3 once for all, and the results of two splits (50 KB)
// stay in L2 beside them.
constexpr int kBlockQueries = 48;
constexpr int64_t kBlocksAThread = 4;      // with fewer, splits of a block are shared out too
constexpr int64_t kSequencesAThread = 16;  // with as many, the last to finish is a small part of the whole
constexpr int64_t kPartialFloats = int64_t{16} << 20;  // of results by split kept at once: 64 MiB
// Products below which the caller is done sooner alone: 2.5 us at the rate of one AVX-512 core, about what
// starting and meeting the other threads costs.
constexpr int64_t kAloneProducts = int64_t{1} << 17;
constexpr int64_t kAloneFloats = 16384;  // the same of a projection, 0.15 ns a float

}  // namespace

struct CpuAttention::Call {
  const AttentionShape& shape;
  const AttentionBatch& batch;
  const KvLayer& kv;
  float* qkv;
  float* out;
  int dim;
  int heads;  // that share a KV head
  int64_t row_floats;
  int64_t partial_floats;  // of a row and KV head
  int64_t head_bytes;      // of a block of the cache
  float scale;
  int block_rows;  // at most, of a block
  // Of CutIntoBlocks:
  int64_t blocks = 0;
  int64_t most_rows = 0;
  int64_t most_splits = 0;
  int64_t products = 0;  // of a query's and a key's element, over all of the call
  bool one_block_a_sequence = true;

  // The positions that a row sees, its own the last.
  int64_t FirstKey(int64_t row) const {
    return shape.window > 0 ? std::max(0, batch.position[row] - shape.window + 1) : 0;
  }
  int64_t FirstSplit(int64_t row) const { return FirstKey(row) / kAttentionSplit; }
  int64_t LastSplit(int64_t row) const { return batch.position[row] / kAttentionSplit; }
  float* Head(int64_t row, int64_t head) const { return qkv + row * row_floats + head * dim; }
};

// --- Projection ---

void CpuAttention::Normalize(const float* weight, float eps, int64_t count, float* x) {
  // A row that is not finite must show in the output, whose Quantize or Norm reports it; a sum of squares
  // past f32 alone would leave zeros.
  if (!device_->kernels.norm({NormKind::kRms, weight, nullptr, eps}, x, count, x)) {
    std::fill_n(x, count, std::numeric_limits<float>::quiet_NaN());
  }
}

void CpuAttention::NormalizeRow(const Call& call, int64_t row) {
  const AttentionShape& shape = call.shape;
  Normalize(shape.q_norm, shape.norm_eps, int64_t{shape.heads} * call.dim, call.Head(row, 0));
  Normalize(shape.k_norm, shape.norm_eps, int64_t{shape.kv_heads} * call.dim, call.Head(row, shape.heads));
}

void CpuAttention::ProjectHead(const Call& call, int64_t row, const float* norm, float* x) {
  const AttentionShape& shape = call.shape;
  if (shape.qk_norm == QkNorm::kHead) Normalize(norm, shape.norm_eps, call.dim, x);
  const int64_t angles = row * (shape.rope_dims / 2);
  device_->kernels.rotate(shape.rope, call.batch.cos + angles, call.batch.sin + angles, shape.rope_dims, x);
}

void CpuAttention::ProjectQueries(const Call& call, int64_t row, int64_t g) {
  for (int64_t h = g * call.heads; h < (g + 1) * call.heads; ++h) {
    ProjectHead(call, row, call.shape.q_norm, call.Head(row, h));
  }
}

void CpuAttention::ProjectKey(const Call& call, int64_t row, int64_t g) {
  const AttentionShape& shape = call.shape;
  float* const k = call.Head(row, shape.heads + g);
  ProjectHead(call, row, shape.k_norm, k);
  const int32_t position = call.batch.position[row];
  const int64_t block = call.batch.block_table[row][position / kKvBlockTokens];
  const int64_t offset = (block * shape.kv_heads + g) * call.head_bytes;
  device_->kernels.store_kv(call.kv.type, k, call.Head(row, shape.heads + shape.kv_heads + g), call.dim,
                            position % kKvBlockTokens, call.kv.k + offset, call.kv.v + offset);
}

// Each cache line of a block of K has a part of all its keys, so that they are one thread's: written by two,
// the line would go back and forth between their cores.
void CpuAttention::ProjectAll(const Call& call, bool queries) {
  const AttentionBatch& batch = call.batch;
  const int64_t kv_heads = call.shape.kv_heads;
  int32_t* const runs = runs_.Get(batch.rows + 1);
  int64_t count = 0;
  for (int row = 0; row < batch.rows; ++row) {
    const bool same = row > 0 && batch.block_table[row] == batch.block_table[row - 1] &&
                      batch.position[row] / kKvBlockTokens == batch.position[row - 1] / kKvBlockTokens;
    if (!same) runs[count++] = row;
  }
  runs[count] = batch.rows;
  const int64_t floats = batch.rows * (queries ? call.row_floats : 2 * kv_heads * call.dim);
  ForUnits(floats <= kAloneFloats, count * kv_heads, [&](int64_t, int64_t unit) {
    const int64_t g = unit % kv_heads;
    for (int64_t row = runs[unit / kv_heads]; row < runs[unit / kv_heads + 1]; ++row) {
      ProjectKey(call, row, g);
      if (queries) ProjectQueries(call, row, g);
    }
  });
}

// --- One split ---

void CpuAttention::AttendSplit(const Call& call, int64_t g, bool heads_follow, int64_t split, int row_begin,
                               int row_end, float* partial) {
  const int64_t start = split * kAttentionSplit;
  int begin[kBlockQueries];
  int end[kBlockQueries];
  for (int row = row_begin; row < row_end; ++row) {
    begin[row - row_begin] = static_cast<int>(std::max<int64_t>(0, call.FirstKey(row) - start));
    end[row - row_begin] =
        static_cast<int>(std::min<int64_t>(kAttentionSplit, call.batch.position[row] + 1 - start));
  }
  const KvSplit keys = {
      .type = call.kv.type,
      .k = call.kv.k + g * call.head_bytes,
      .v = call.kv.v + g * call.head_bytes,
      .block_bytes = call.shape.kv_heads * call.head_bytes,
      .blocks = call.batch.block_table[row_begin] + start / kKvBlockTokens,
      .head_dim = call.dim,
      .next_k = heads_follow ? call.kv.k + (g + 1) * call.head_bytes : nullptr,
  };
  const SplitRows rows = {
      .rows = row_end - row_begin,
      .heads = call.heads,
      .begin = begin,
      .end = end,
      .q = call.Head(row_begin, g * call.heads),
      .q_stride = call.row_floats,
      .out = partial,
      .out_stride = call.partial_floats,
  };
  alignas(64) float scratch[kAttentionScratchFloats];
  device_->kernels.attend_split(keys, rows, call.scale, scratch);
}

void CpuAttention::Merge(const Call& call, const float* later, float* partial) {
  const int heads = call.heads;
  for (int h = 0; h < heads; ++h) {
    const int64_t acc = 2 * heads + int64_t{h} * call.dim;
    device_->kernels.merge_split(call.dim, later[h], later[heads + h], later + acc, partial + h,
                                 partial + heads + h, partial + acc);
  }
}

void CpuAttention::Finish(const Call& call, int64_t row, int64_t g, const float* partial) {
  const int heads = call.heads;
  float* const out = call.out + (row * call.shape.heads + g * heads) * call.dim;
  for (int h = 0; h < heads; ++h) {
    device_->kernels.finish_split(call.dim, partial[heads + h], partial + 2 * heads + int64_t{h} * call.dim,
                                  out + int64_t{h} * call.dim);
  }
}

// --- Blocks of rows ---

void CpuAttention::CutIntoBlocks(Call* call) {
  const AttentionBatch& batch = call->batch;
  RowBlock* const blocks = blocks_.Get(batch.rows);
  int64_t count = 0;
  int64_t keys = 0;
  for (int row = 0, end = 0; row < batch.rows; row = end) {
    RowBlock block = {row, row, call->FirstSplit(row), 0, 0};
    while (end < batch.rows && end < row + call->block_rows &&
           batch.block_table[end] == batch.block_table[row]) {
      block.keys += batch.position[end] + 1 - call->FirstKey(end);
      ++end;
    }
    if (row > 0 && batch.block_table[row - 1] == batch.block_table[row]) call->one_block_a_sequence = false;
    block.row_end = end;
    block.split_end = call->LastSplit(end - 1) + 1;
    call->most_splits = std::max(call->most_splits, block.split_end - block.split_begin);
    call->most_rows = std::max<int64_t>(call->most_rows, block.row_end - block.row_begin);
    keys += block.keys;
    blocks[count++] = block;
  }
  std::sort(blocks, blocks + count, [](const RowBlock& a, const RowBlock& b) {
    return a.keys != b.keys ? a.keys > b.keys : a.row_begin < b.row_begin;
  });
  call->blocks = count;
  call->products = keys * call->shape.heads * call->dim;
}

void CpuAttention::AttendBlock(const Call& call, const RowBlock& block, int64_t g, bool heads_follow,
                               float* partials) {
  float* const later = partials + (block.row_end - block.row_begin) * call.partial_floats;
  const auto of = [&](float* base, int row) { return base + (row - block.row_begin) * call.partial_floats; };
  for (int64_t split = block.split_begin; split < block.split_end; ++split) {
    const bool next = heads_follow && block.split_end - block.split_begin == 1;  // in the same blocks
    // In this order: rows that see no key so late, rows that began with an earlier split, rows that begin
    // here, rows that see no key so early.
    int begin = block.row_begin;
    while (call.LastSplit(begin) < split) ++begin;
    int first = begin;
    while (first < block.row_end && call.FirstSplit(first) < split) ++first;
    int end = first;
    while (end < block.row_end && call.FirstSplit(end) == split) ++end;
    if (first > begin) {
      AttendSplit(call, g, next, split, begin, first, of(later, begin));
      for (int row = begin; row < first; ++row) Merge(call, of(later, row), of(partials, row));
    }
    if (end > first) AttendSplit(call, g, next, split, first, end, of(partials, first));
  }
  for (int row = block.row_begin; row < block.row_end; ++row) Finish(call, row, g, of(partials, row));
}

// Who computes the last split of a block and KV head merges them, in ascending order.
void CpuAttention::AttendBySplits(const Call& call) {
  const int64_t kv_heads = call.shape.kv_heads;
  const int64_t stride = call.most_rows * call.partial_floats;
  float* const partials = partials_.Get(call.blocks * call.most_splits * kv_heads * stride);
  int32_t* const left = left_.Get(call.blocks * kv_heads);
  for (int64_t i = 0; i < call.blocks * kv_heads; ++i) {
    const RowBlock& block = blocks_.Get(0)[i / kv_heads];
    left[i] = static_cast<int32_t>(block.split_end - block.split_begin);
  }
  const bool alone = call.products <= kAloneProducts;
  ForUnits(alone, call.blocks * call.most_splits * kv_heads, [&](int64_t, int64_t unit) {
    const int64_t g = unit % kv_heads;
    const int64_t index = unit / kv_heads / call.most_splits;
    const RowBlock& block = blocks_.Get(0)[index];
    const int64_t split = block.split_begin + unit / kv_heads % call.most_splits;
    if (split >= block.split_end) return;
    const auto partial = [&](int64_t of_split, int64_t row) {
      const int64_t i = (index * call.most_splits + of_split - block.split_begin) * kv_heads + g;
      return partials + i * stride + (row - block.row_begin) * call.partial_floats;
    };
    int begin = block.row_begin;
    while (call.LastSplit(begin) < split) ++begin;
    int end = begin;
    while (end < block.row_end && call.FirstSplit(end) <= split) ++end;
    if (end > begin) AttendSplit(call, g, false, split, begin, end, partial(split, begin));
    // Releases this split's results to, and acquires the others' in, the thread that merges.
    if (std::atomic_ref<int32_t>(left[index * kv_heads + g]).fetch_sub(1, std::memory_order_acq_rel) > 1) {
      return;
    }
    for (int64_t row = block.row_begin; row < block.row_end; ++row) {
      float* const merged = partial(call.FirstSplit(row), row);
      for (int64_t later = call.FirstSplit(row) + 1; later <= call.LastSplit(row); ++later) {
        Merge(call, partial(later, row), merged);
      }
      Finish(call, row, g, merged);
    }
  });
}

void CpuAttention::ForUnits(bool alone, int64_t units, absl::FunctionRef<void(int64_t, int64_t)> body) {
  std::atomic<int64_t> next = 0;
  device_->pool.ParallelFor(alone ? 1 : device_->pool.threads(), [&](int64_t slot) {
    for (int64_t unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < units;) body(slot, unit);
  });
}

void CpuAttention::Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                       float* qkv, float* out) {
  if (batch.rows == 0) return;
  const int64_t dim = shape.head_dim;
  const int64_t kv_heads = shape.kv_heads;
  const int heads = shape.heads / shape.kv_heads;
  Call call = {.shape = shape,
               .batch = batch,
               .kv = kv,
               .qkv = qkv,
               .out = out,
               .dim = shape.head_dim,
               .heads = heads,
               .row_floats = (shape.heads + 2 * kv_heads) * dim,
               .partial_floats = heads * (2 + dim),
               .head_bytes = KvHeadBlockBytes(kv.type, dim),
               .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
               .block_rows = std::max(1, kBlockQueries / heads)};
  CutIntoBlocks(&call);
  const bool by_splits =
      call.most_splits > 1 && call.blocks * kv_heads < kBlocksAThread * device_->pool.threads() &&
      call.blocks * call.most_splits * kv_heads * call.most_rows * call.partial_floats <= kPartialFloats;

  if (shape.qk_norm == QkNorm::kRow) {
    ForUnits(batch.rows * call.row_floats <= kAloneFloats, batch.rows,
             [&](int64_t, int64_t row) { NormalizeRow(call, row); });
  }
  // Keys of other blocks must be in the cache before a block is attended to. Where there are none, who
  // attends projects as well, and the threads meet once; queries wait for who attends unless several share
  // them.
  const bool keys_first = by_splits || !call.one_block_a_sequence;
  if (keys_first) ProjectAll(call, by_splits);
  if (by_splits) {
    AttendBySplits(call);
    return;
  }
  // Many short sequences: a unit is all heads of one, so that each head's keys are fetched during the one
  // before.
  const bool all_heads =
      call.one_block_a_sequence && call.blocks >= kSequencesAThread * device_->pool.threads();
  const int64_t unit_heads = all_heads ? kv_heads : 1;
  const int64_t stride = 2 * call.most_rows * call.partial_floats;  // a slot's results of two splits
  float* const partials = partials_.Get(device_->pool.threads() * stride);
  const bool alone = call.products <= kAloneProducts && batch.rows * call.row_floats <= kAloneFloats;
  ForUnits(alone, call.blocks * kv_heads / unit_heads, [&](int64_t slot, int64_t unit) {
    const int64_t begin = unit * unit_heads;
    for (int64_t i = begin; i < begin + unit_heads; ++i) {
      const RowBlock& block = blocks_.Get(0)[i / kv_heads];
      const int64_t g = i % kv_heads;
      for (int64_t row = block.row_begin; row < block.row_end; ++row) {
        if (!keys_first) ProjectKey(call, row, g);
        ProjectQueries(call, row, g);
      }
      AttendBlock(call, block, g, all_heads && g + 1 < kv_heads, partials + slot * stride);
    }
  });
}

}  // namespace moepool
