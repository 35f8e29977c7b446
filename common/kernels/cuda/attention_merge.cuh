// Merges the partial results of rows that saw several splits, in ascending order (MergeSplit and FinishSplit
// of the CPU's kernels).
#pragma once

#include "common/kernels/cuda/attention_args.h"
#include "common/kernels/cuda/numerics.cuh"

namespace moepool {
namespace {

// Grid: rows, heads, shares of the dimensions. A thread has one dimension. The maximum of the first splits is
// the same in any order, so that a warp finds the factors of 32 merges at once, each lane those of one.
SIMT_KERNEL MergeKernel(MergeArgs args) {
  const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
  const int d = static_cast<int>(blockIdx.z * blockDim.x + threadIdx.x);
  const bool own = d < args.head_dim;
  if (args.merged_there != nullptr && static_cast<int>(blockIdx.x) >= *args.merged_there) return;
  const int row = args.merged[blockIdx.x];
  const AttendRow r = args.rows[row];
  const int head = static_cast<int>(blockIdx.y);
  const int splits = r.position / kAttentionSplit - r.first_key / kAttentionSplit + 1;
  const float* const max_sums = args.max_sums + 2 * (int64_t{r.partial} * args.heads + head);
  const float* const partials = args.partials + (int64_t{r.partial} * args.heads + head) * args.head_dim + d;
  const int64_t stride = int64_t{args.heads} * args.head_dim;

  const float lowest = simt::BitsFloat(0xff800000u);
  float before = lowest;  // the maximum of the tiles before
  float sum = 0;
  float acc = 0;
  for (int tile = 0; tile < splits; tile += simt::kWarp) {
    const bool there = tile + lane < splits;
    const float own_max = there ? max_sums[int64_t{2} * (tile + lane) * args.heads] : lowest;
    const float own_sum = there ? max_sums[int64_t{2} * (tile + lane) * args.heads + 1] : 0;
    float upto = own_max;  // maxima are not NaN
    SIMT_UNROLL
    for (int apart = 1; apart < simt::kWarp; apart *= 2) {
      const float other = simt::ShuffleUp(simt::kAllLanes, upto, apart);
      if (lane >= apart && other > upto) upto = other;
    }
    upto = before > upto ? before : upto;
    const float above = simt::ShuffleUp(simt::kAllLanes, upto, 1);
    const float former = lane == 0 ? before : above;
    const float keep = DeviceExp(former - upto);
    const float take = DeviceExp(own_max - upto);
    before = simt::Shuffle(simt::kAllLanes, upto, simt::kWarp - 1);

    constexpr int ahead = 8;  // partial results under way
    const int count = splits - tile < simt::kWarp ? splits - tile : simt::kWarp;
    for (int i = 0; i < count; i += ahead) {
      float next[ahead];
      SIMT_UNROLL
      for (int j = 0; j < ahead; ++j) next[j] = own && i + j < count ? partials[(tile + i + j) * stride] : 0;
      SIMT_UNROLL
      for (int j = 0; j < ahead; ++j) {
        const float a = simt::Shuffle(simt::kAllLanes, keep, i + j);
        const float b = simt::Shuffle(simt::kAllLanes, take, i + j);
        const float s = simt::Shuffle(simt::kAllLanes, own_sum, i + j);
        if (i + j >= count) continue;
        const bool first = tile + i + j == 0;
        sum = first ? s : simt::Fma(s, b, sum * a);
        acc = first ? next[j] : simt::Fma(next[j], b, acc * a);
      }
    }
  }
  if (own) {
    args.out[(int64_t{row} * args.heads + head) * args.head_dim + d] = acc * simt::Divide(1.0f, sum);
  }
}

}  // namespace
}  // namespace moepool
