// See attention.h.
#include "common/backend/cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace moepool {
namespace {

constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of partial results kept at once: 32 MiB
constexpr int64_t kItemsAThread = 8;
constexpr int64_t kMostRowsAnItem = 16;

// The positions that a row sees, its own the last.
int32_t FirstKey(const AttentionShape& shape, int32_t position) {
  return shape.window > 0 ? std::max(0, position - shape.window + 1) : 0;
}

int64_t FirstVisibleSplit(const AttentionShape& shape, int32_t position) {
  return FirstKey(shape, position) / kAttentionSplit;
}

int64_t VisibleSplits(const AttentionShape& shape, int32_t position) {
  return position / kAttentionSplit + 1 - FirstVisibleSplit(shape, position);
}

int64_t HeadBlockBytes(const AttentionShape& shape, const KvLayer& kv) {
  return KvHeadBlockBytes(kv.type, shape.head_dim);
}

}  // namespace

void CpuAttention::Normalize(const float* weight, float eps, int64_t count, float* x) {
  // A row that is not finite must show in the output, whose Quantize or Norm reports it; a sum of squares
  // past f32 alone would leave zeros.
  if (!device_->kernels.norm({NormKind::kRms, weight, nullptr, eps}, x, count, x)) {
    std::fill_n(x, count, std::numeric_limits<float>::quiet_NaN());
  }
}

void CpuAttention::Project(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                           int row, float* qkv) {
  const int dim = shape.head_dim;
  const float* const cos = batch.cos + int64_t{row} * (shape.rope_dims / 2);
  const float* const sin = batch.sin + int64_t{row} * (shape.rope_dims / 2);
  const int query_floats = shape.heads * dim;
  const int key_floats = shape.kv_heads * dim;
  float* const k = qkv + query_floats;
  float* const v = k + key_floats;
  switch (shape.qk_norm) {
    case QkNorm::kNone:
      break;
    case QkNorm::kHead:
      for (int h = 0; h < shape.heads; ++h) Normalize(shape.q_norm, shape.norm_eps, dim, qkv + h * dim);
      for (int g = 0; g < shape.kv_heads; ++g) Normalize(shape.k_norm, shape.norm_eps, dim, k + g * dim);
      break;
    case QkNorm::kRow:
      Normalize(shape.q_norm, shape.norm_eps, query_floats, qkv);
      Normalize(shape.k_norm, shape.norm_eps, key_floats, k);
      break;
  }
  for (int h = 0; h < shape.heads + shape.kv_heads; ++h) {
    device_->kernels.rotate(shape.rope, cos, sin, shape.rope_dims, qkv + h * dim);
  }
  const int32_t position = batch.position[row];
  const int64_t block = batch.block_table[row][position / kKvBlockTokens];
  for (int g = 0; g < shape.kv_heads; ++g) {
    const int64_t offset = (block * shape.kv_heads + g) * HeadBlockBytes(shape, kv);
    device_->kernels.store_kv(kv.type, k + g * dim, v + g * dim, dim, position % kKvBlockTokens,
                              kv.k + offset, kv.v + offset);
  }
}

void CpuAttention::Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                       float* qkv, float* out) {
  const int dim = shape.head_dim;
  const int64_t row_floats = int64_t{shape.heads + 2 * shape.kv_heads} * dim;
  device_->pool.ParallelFor(batch.rows, [&](int64_t row) {
    Project(shape, batch, kv, static_cast<int>(row), qkv + row * row_floats);
  });

  // All splits of as many rows as fit the partials are computed at once, then merged row by row.
  const int heads = shape.heads / shape.kv_heads;  // that share a KV head
  const int64_t split_floats = int64_t{heads} * (2 + dim);
  const int64_t head_bytes = HeadBlockBytes(shape, kv);
  const auto splits_of = [&](int64_t row) { return VisibleSplits(shape, batch.position[row]); };
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  int64_t* const first_split = first_split_.Get(batch.rows + 1);
  for (int row_begin = 0, row_end = 0; row_begin < batch.rows; row_begin = row_end) {
    int64_t most_splits = 0;
    first_split[row_begin] = 0;
    do {
      const int64_t splits = splits_of(row_end);
      most_splits = std::max(most_splits, splits);
      first_split[row_end + 1] = first_split[row_end] + splits;
      ++row_end;
    } while (row_end < batch.rows &&
             (first_split[row_end] + splits_of(row_end)) * shape.kv_heads * split_floats <= kPartialFloats);
    float* const partials = partials_.Get(first_split[row_end] * shape.kv_heads * split_floats);
    // Maxima, sums and accumulators of one (row, visible split, KV head).
    const auto partial = [&](int64_t row, int64_t split, int64_t g) {
      return partials + ((first_split[row] + split) * shape.kv_heads + g) * split_floats;
    };
    const auto attend = [&](int64_t row, int64_t split, int64_t g) {
      const int32_t position = batch.position[row];
      const int64_t start = (FirstVisibleSplit(shape, position) + split) * kAttentionSplit;
      const KvSplit keys = {
          .type = kv.type,
          .k = kv.k + g * head_bytes,
          .v = kv.v + g * head_bytes,
          .block_bytes = shape.kv_heads * head_bytes,
          .blocks = batch.block_table[row] + start / kKvBlockTokens,
          .begin = static_cast<int>(std::max<int64_t>(0, FirstKey(shape, position) - start)),
          .end = static_cast<int>(std::min<int64_t>(kAttentionSplit, position + 1 - start)),
          .head_dim = dim,
      };
      alignas(64) float scores[kAttentionScratchFloats];
      float* const max = partial(row, split, g);
      float* const sum = max + heads;
      device_->kernels.attend_split(keys, heads, scale, qkv + row * row_floats + g * heads * dim, scores, max,
                                    sum, sum + heads);
    };
    // One item takes a split and a KV head for a few neighbouring rows, which mostly read the same keys.
    const int64_t rows = row_end - row_begin;
    const int64_t rows_an_item = std::clamp<int64_t>(
        rows * most_splits * shape.kv_heads / (kItemsAThread * device_->pool.threads()), 1, kMostRowsAnItem);
    const int64_t row_items = (rows + rows_an_item - 1) / rows_an_item;
    device_->pool.ParallelFor(row_items * most_splits * shape.kv_heads, [&](int64_t item) {
      const int64_t g = item % shape.kv_heads;
      const int64_t split = item / shape.kv_heads % most_splits;
      const int64_t begin = row_begin + item / (shape.kv_heads * most_splits) * rows_an_item;
      const int64_t end = std::min<int64_t>(row_end, begin + rows_an_item);
      for (int64_t row = begin; row < end; ++row) {
        if (split < splits_of(row)) attend(row, split, g);
      }
    });

    device_->pool.ParallelFor(rows, [&](int64_t i) {
      const int64_t row = row_begin + i;
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        float* const first = partial(row, 0, g);
        for (int h = 0; h < heads; ++h) {
          float* const acc = first + 2 * heads + h * dim;
          for (int64_t split = 1; split < splits_of(row); ++split) {
            const float* const later = partial(row, split, g);
            device_->kernels.merge_split(dim, later[h], later[heads + h], later + 2 * heads + h * dim,
                                         first + h, first + heads + h, acc);
          }
          device_->kernels.finish_split(dim, first[heads + h], acc,
                                        out + (row * shape.heads + g * heads + h) * dim);
        }
      }
    });
  }
}

}  // namespace moepool
