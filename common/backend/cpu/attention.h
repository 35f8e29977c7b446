// Attention of one step over the paged cache. See TrunkOps::Attention for shapes, kernels.h for the
// arithmetic.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "common/backend/cpu/cpu_backend.h"
#include "common/backend/cpu/scratch.h"

namespace moepool {

class CpuAttention {
 public:
  explicit CpuAttention(CpuDevice* device) : device_(device) {}
  void Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
           float* out);

 private:
  // The arguments of Run and what follows from them.
  struct Call;
  // Neighbouring rows of one sequence, and the splits of which they see keys.
  struct RowBlock {
    int row_begin;
    int row_end;
    int64_t split_begin;
    int64_t split_end;
    int64_t keys;  // that its rows see, each counted for itself
  };

  // Fills blocks_, the longest first.
  void CutIntoBlocks(Call* call);
  // x <- its RMS norm, or NaN throughout where that is not finite.
  void Normalize(const float* weight, float eps, int64_t count, float* x);
  void NormalizeRow(const Call& call, int64_t row);
  // Normalises (but for norms of whole rows) and rotates a row's queries and key of KV head g, and writes its
  // key and value to the cache.
  void Project(const Call& call, int64_t row, int64_t g);
  // Attention of rows [row_begin, row_end) of a block to one split, all of which they see in part.
  void AttendSplit(const Call& call, int64_t g, int64_t split, int row_begin, int row_end, float* partial);
  // Adds a row's later partial result to an earlier one.
  void Merge(const Call& call, const float* later, float* partial);
  void Finish(const Call& call, int64_t row, int64_t g, const float* partial);

  // All splits of one block and KV head, one after another.
  void AttendBlock(const Call& call, const RowBlock& block, int64_t g, float* partials);
  void AttendBySplits(const Call& call);

  // body(item, unit) for each of `units`, which are shared out in items of several.
  void ForUnits(const Call& call, int64_t units, absl::FunctionRef<void(int64_t, int64_t)> body);
  int64_t Items(const Call& call, int64_t units) const;

  CpuDevice* const device_;
  Scratch<RowBlock> blocks_;
  Scratch<float> partials_;  // maxima, sums and accumulators, as attend_split writes them
  Scratch<int32_t> left_;    // [blocks, KV heads] splits under way
};

}  // namespace moepool
