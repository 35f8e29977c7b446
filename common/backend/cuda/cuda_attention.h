// Attention of one step on the device. See TrunkOps::Attention for shapes, kernels.h for the arithmetic. The
// host plans which thread block attends to what; results do not depend on the plan.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_context.h"
#include "common/kernels/cuda/attention_args.h"

namespace moepool {

// What the thread blocks of a call do, in host memory.
struct AttentionPlan {
  std::vector<AttendRow> rows;
  std::vector<int32_t> blocks;     // of all sequences
  std::vector<AttendUnit> narrow;  // of kNarrowQueries at most, those of many splits first
  std::vector<AttendUnit> wide;
  std::vector<int32_t> merged;  // rows that have partial results
  int32_t narrow_queries = 0;   // the most of a unit
  int64_t partials = 0;         // splits of rows that have partial results
};

// How much there is of a plan's parts, which decides over launches and over where things lie.
struct AttentionExtent {
  int32_t narrow = 0;          // units, in as many blocks of threads for each KV head
  int32_t narrow_queries = 0;  // the most of one
  int32_t wide = 0;
  int32_t merged = 0;
  int64_t partials = 0;
  auto operator<=>(const AttentionExtent&) const = default;
};
AttentionExtent ExtentOf(const AttentionPlan& plan);
// One that holds `extent` and few others too, so that steps of the same rows, as their contexts grow, have
// one in common for long. No more than `max_partials`, which `extent` keeps to.
AttentionExtent RoundUpExtent(const AttentionExtent& extent, int rows, int64_t max_partials);

// Overwrites *plan, whose memory is kept. At most `max_partials` partial results; rows that find no room for
// theirs have their splits one after another.
void PlanAttention(const AttentionShape& shape, const AttentionBatch& batch, int64_t max_partials,
                   AttentionPlan* plan);

// Holds on the device what the layers of a step share, for each micro-batch apart, so that those whose layers
// take turns copy it once each, and partial results of kPartialBytes at most. One caller at a time, who holds
// the context's mutex.
class CudaAttention {
 public:
  static constexpr int64_t kPartialBytes = int64_t{64} << 20;
  static constexpr int64_t kTableBytes = int64_t{4}
                                         << 20;  // of blocks and units of a step, that are reserved

  explicit CudaAttention(CudaContext* context, int64_t partial_bytes = kPartialBytes);
  // Takes what steps of `rows` rows need, however long their sequences, with tables of kTableBytes at most.
  absl::Status Reserve(const ModelConfig& config, int rows);
  // Copies what the calls of the batch's step share, for Run() to be recorded: calls of two steps of the same
  // rows, micro-batch and extent are then the same launches.
  AttentionExtent Prepare(const AttentionShape& shape, const AttentionBatch& batch);
  // As TrunkOps::Attention. qkv and out are aligned to 16 bytes.
  void Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv, float* qkv,
           float* out);

 private:
  // One step on the device.
  struct Step {
    explicit Step(CudaContext* context) : memory(context) {}
    bool Serves(const AttentionShape& other, const AttentionBatch& batch) const;

    DeviceScratch memory;
    uint64_t step = 0;
    AttentionShape shape;  // those of its members count that the plan depends on
    AttentionTables tables;
    const AttendUnit* narrow = nullptr;
    const AttendUnit* wide = nullptr;
    const int32_t* merged = nullptr;
    // Narrow and wide units and merged rows that there are; null: as many as `extent` says.
    const int32_t* there = nullptr;
    AttentionExtent extent;
  };
  // Step of the batch, copied where it is not there. `rounded`: its extent is.
  const Step& StepOf(const AttentionShape& shape, const AttentionBatch& batch, bool rounded);

  CudaContext& context_;
  const int64_t partial_bytes_;
  std::array<std::unique_ptr<Step>, kMostMicroBatches> steps_;
  AttentionPlan plan_;
  Upload upload_;
  DeviceScratch partials_;
};

}  // namespace moepool
