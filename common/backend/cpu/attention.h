// Attention of one step over the paged cache. See TrunkOps::Attention for shapes, kernels.h for the
// arithmetic.
#pragma once

#include "common/backend/cpu/cpu_backend.h"
#include "common/backend/cpu/scratch.h"

namespace moepool {

class CpuAttention {
 public:
  explicit CpuAttention(CpuDevice* device) : device_(device) {}
  void Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
           float* out);

 private:
  // x <- its RMS norm, or NaN throughout where that is not finite.
  void Normalize(const float* weight, float eps, int64_t count, float* x);
  // Normalises and rotates one row's q and k, and writes its k and v to the cache.
  void Project(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, int row,
               float* qkv);

  CpuDevice* const device_;
  Scratch<float> partials_;  // of each (row, split, KV head): maxima, sums, accumulators
  Scratch<int64_t> first_split_;
};

}  // namespace moepool
