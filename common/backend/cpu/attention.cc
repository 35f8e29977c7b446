// See attention.h.
#include "common/backend/cpu/attention.h"

#include <algorithm>
#include <cmath>

namespace moepool {
namespace {

constexpr int64_t kPartialFloats = int64_t{8} << 20;  // of partial results kept at once: 32 MiB

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
  const int64_t split_floats = int64_t{heads} * (kAttentionSplit + 2 + dim);
  const int64_t block_stride = int64_t{shape.kv_heads} * dim * kKvBlockTokens;
  const int64_t element = kv.type == KvType::kF16 ? 2 : 4;
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  int64_t* const first_split = first_split_.Get(batch.rows + 1);
  for (int row_begin = 0, row_end = 0; row_begin < batch.rows; row_begin = row_end) {
    first_split[row_begin] = 0;
    do {
      first_split[row_end + 1] = first_split[row_end] + Splits(batch.position[row_end]);
      ++row_end;
    } while (row_end < batch.rows &&
             (first_split[row_end] + Splits(batch.position[row_end])) * shape.kv_heads * split_floats <=
                 kPartialFloats);
    const int64_t items = first_split[row_end] * shape.kv_heads;
    float* const partials = partials_.Get(items * split_floats);

    device_->pool.ParallelFor(items, [&](int64_t item) {
      const int64_t g = item % shape.kv_heads;
      const int64_t split = item / shape.kv_heads;
      const int64_t row =
          std::upper_bound(first_split + row_begin, first_split + row_end + 1, split) - first_split - 1;
      const int64_t first_key = (split - first_split[row]) * kAttentionSplit;
      const int keys =
          static_cast<int>(std::min<int64_t>(kAttentionSplit, batch.position[row] + 1 - first_key));
      float* const scores = partials + item * split_floats;
      float* const max = scores + heads * kAttentionSplit;
      float* const sum = max + heads;
      const int64_t head_offset = g * dim * kKvBlockTokens * element;
      device_->kernels.attend_split(kv.type, kv.k + head_offset, kv.v + head_offset, block_stride,
                                    batch.block_table[row] + first_key / kKvBlockTokens, keys, dim, heads,
                                    scale, qkv + row * row_floats + g * heads * dim, scores, max, sum,
                                    sum + heads);
    });

    device_->pool.ParallelFor(row_end - row_begin, [&](int64_t i) {
      const int64_t row = row_begin + i;
      for (int64_t g = 0; g < shape.kv_heads; ++g) {
        const auto partial = [&](int64_t split) {
          return partials + (split * shape.kv_heads + g) * split_floats + heads * kAttentionSplit;
        };
        float* const first = partial(first_split[row]);
        for (int h = 0; h < heads; ++h) {
          float* const acc = first + 2 * heads + h * dim;
          for (int64_t split = first_split[row] + 1; split < first_split[row + 1]; ++split) {
            const float* const later = partial(split);
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
