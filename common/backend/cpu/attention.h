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

  // Fills blocks_, those that see the most keys first.
  void CutIntoBlocks(Call* call);
  // x <- its RMS norm, or NaN throughout where that is not finite.
  void Normalize(const float* weight, float eps, int64_t count, float* x);
  void NormalizeRow(const Call& call, int64_t row);
  // Normalise (but for norms of whole rows) and rotate what a row has of KV head g: the queries that share
  // it, and the key, which goes to the cache with the value.
  void ProjectHead(const Call& call, int64_t row, const float* norm, float* x);
  void ProjectQueries(const Call& call, int64_t row, int64_t g);
  void ProjectKey(const Call& call, int64_t row, int64_t g);
  // ProjectKey, and ProjectQueries where asked, of all rows.
  void ProjectAll(const Call& call, bool queries);
  // Attention of rows [row_begin, row_end) of a block to one split, all of which they see in part.
  // `heads_follow`: KV head g + 1 is next.
  void AttendSplit(const Call& call, int64_t g, bool heads_follow, int64_t split, int row_begin, int row_end,
                   float* partial);
  // Adds a row's later partial result to an earlier one.
  void Merge(const Call& call, const float* later, float* partial);
  void Finish(const Call& call, int64_t row, int64_t g, const float* partial);

  // All splits of one block and KV head, one after another.
  void AttendBlock(const Call& call, const RowBlock& block, int64_t g, bool heads_follow, float* partials);
  void AttendBySplits(const Call& call);

  // body(slot, unit) for each of `units`, handed out one by one in ascending order, so that the caller puts
  // the long ones first. Units under way at the same time have different slots, of which there are as many as
  // threads; `alone` leaves all to the caller.
  void ForUnits(bool alone, int64_t units, absl::FunctionRef<void(int64_t, int64_t)> body);

  CpuDevice* const device_;
  Scratch<RowBlock> blocks_;
  Scratch<int32_t> runs_;    // the first rows of runs that write to one block of the cache
  Scratch<float> partials_;  // maxima, sums and accumulators, as attend_split writes them
  Scratch<int32_t> left_;    // [blocks, KV heads] splits under way
};

}  // namespace moepool
