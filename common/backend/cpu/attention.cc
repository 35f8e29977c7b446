// See attention.h.
#include "common/backend/cpu/attention.h"

#include <algorithm>
#include <cmath>

namespace moepool {
namespace {

constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of partial results kept at once: 32 MiB
constexpr int64_t kItemsAThread = 8;
constexpr int64_t kMostRowsAnItem = 16;

int64_t Splits(int32_t position) { return position / kAttentionSplit + 1; }

}  // namespace

void CpuAttention::Project(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                           int row, float* qkv) {
  const int dim = shape.head_dim;
  const float* const cos = batch.cos + int64_t{row} * (shape.rope_dims / 2);
  const float* const sin = batch.sin + int64_t{row} * (shape.rope_dims / 2);
  const auto prepare = [&](float* head, const float* weight) {
    if (weight != nullptr) {
      // A head that is not finite shows in the output, whose Quantize or Norm reports it.
      (void)device_->kernels.norm({NormKind::kRms, weight, nullptr, shape.norm_eps}, head, dim, head);
    }
    device_->kernels.rotate(shape.rope, cos, sin, shape.rope_dims, head);
  };
  for (int h = 0; h < shape.heads; ++h) prepare(qkv + h * dim, shape.q_norm);
  float* const k = qkv + shape.heads * dim;
  float* const v = k + shape.kv_heads * dim;
  const int32_t position = batch.position[row];
  const int64_t block = batch.block_table[row][position / kKvBlockTokens];
  const int64_t element = kv.type == KvType::kF16 ? 2 : 4;
  for (int g = 0; g < shape.kv_heads; ++g) {
    prepare(k + g * dim, shape.k_norm);
    const int64_t offset = (block * shape.kv_heads + g) * dim * kKvBlockTokens * element;
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
  const int64_t block_stride = int64_t{shape.kv_heads} * dim * kKvBlockTokens;
  const int64_t element = kv.type == KvType::kF16 ? 2 : 4;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  int64_t* const first_split = first_split_.Get(batch.rows + 1);
  for (int row_begin = 0, row_end = 0; row_begin < batch.rows; row_begin = row_end) {
    int64_t most_splits = 0;
    first_split[row_begin] = 0;
    do {
      const int64_t splits = Splits(batch.position[row_end]);
      most_splits = std::max(most_splits, splits);
      first_split[row_end + 1] = first_split[row_end] + splits;
      ++row_end;
    } while (row_end < batch.rows &&
             (first_split[row_end] + Splits(batch.position[row_end])) * shape.kv_heads * split_floats <=
                 kPartialFloats);
    float* const partials = partials_.Get(first_split[row_end] * shape.kv_heads * split_floats);
    // Maxima, sums and accumulators of one (row, split, KV head).
    const auto partial = [&](int64_t row, int64_t split, int64_t g) {
      return partials + ((first_split[row] + split) * shape.kv_heads + g) * split_floats;
    };
    const auto attend = [&](int64_t row, int64_t split, int64_t g) {
      const int64_t first_key = split * kAttentionSplit;
      const int keys =
          static_cast<int>(std::min<int64_t>(kAttentionSplit, batch.position[row] + 1 - first_key));
      alignas(64) float scores[kAttentionScratchFloats];
      float* const max = partial(row, split, g);
      float* const sum = max + heads;
      const int64_t head_offset = g * dim * kKvBlockTokens * element;
      device_->kernels.attend_split(kv.type, kv.k + head_offset, kv.v + head_offset, block_stride,
                                    batch.block_table[row] + first_key / kKvBlockTokens, keys, dim, heads,
                                    scale, qkv + row * row_floats + g * heads * dim, scores, max, sum,
                                    sum + heads);
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
        if (split < Splits(batch.position[row])) attend(row, split, g);
      }
    });

    device_->pool.ParallelFor(rows, [&](int64_t i) {
      const int64_t row = row_begin + i;
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        float* const first = partial(row, 0, g);
        for (int h = 0; h < heads; ++h) {
          float* const acc = first + 2 * heads + h * dim;
          for (int64_t split = 1; split < Splits(batch.position[row]); ++split) {
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
