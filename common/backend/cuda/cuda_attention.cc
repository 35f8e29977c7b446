// See cuda_attention.h.
#include "common/backend/cuda/cuda_attention.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "common/base/rounding.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

// With as many thread blocks of a prefill every GPU has enough to do, and their splits need not be shared
// out.
constexpr int64_t kBusyBlocks = 256;

template <typename T>
T PowerOfTwo(T n) {
  return n > 0 ? static_cast<T>(std::bit_ceil(static_cast<uint64_t>(n))) : 0;
}

class Planner {
 public:
  Planner(const AttentionShape& shape, const AttentionBatch& batch, int64_t max_partials, AttentionPlan* plan)
      : shape_(shape),
        batch_(batch),
        heads_(shape.heads / shape.kv_heads),
        // The wide kernel reads four dimensions at once.
        most_queries_(shape.head_dim % 4 == 0 ? kWideQueries : kNarrowQueries),
        unit_heads_(std::min(heads_, most_queries_)),
        max_partials_(max_partials),
        plan_(*plan) {
    plan_.rows.resize(static_cast<size_t>(batch.rows));
    for (auto* units : {&plan_.narrow, &plan_.wide}) units->clear();
    for (auto* numbers : {&plan_.blocks, &plan_.merged}) numbers->clear();
    plan_.narrow_queries = 0;
    plan_.partials = 0;
  }

  void Run() {
    struct Group {
      int begin;
      int end;
    };
    std::vector<Group> groups;
    int64_t wide_blocks = 0;
    for (int row = 0, end = 0; row < batch_.rows; row = end) {
      while (end < batch_.rows && batch_.block_table[end] == batch_.block_table[row]) ++end;
      AddSequence(row, end);
      const int step = most_queries_ / unit_heads_;
      for (int begin = row; begin < end; begin += step) {
        groups.push_back({begin, std::min(begin + step, end)});
        if (Wide(groups.back().end - begin)) wide_blocks += shape_.kv_heads;
      }
    }
    for (const Group& group : groups) {
      const bool share_out = !Wide(group.end - group.begin) || wide_blocks < kBusyBlocks;
      AddGroup(group.begin, group.end, share_out);
    }
    for (auto* units : {&plan_.narrow, &plan_.wide}) {
      std::stable_sort(units->begin(), units->end(), [](const AttendUnit& a, const AttendUnit& b) {
        return a.split_end - a.split_begin > b.split_end - b.split_begin;
      });
    }
  }

 private:
  bool Wide(int rows) const { return rows * unit_heads_ > kNarrowQueries; }
  AttendRow& Row(int row) { return plan_.rows[static_cast<size_t>(row)]; }
  int FirstSplit(int row) { return Row(row).first_key / kAttentionSplit; }
  int LastSplit(int row) { return Row(row).position / kAttentionSplit; }

  void AddSequence(int begin, int end) {
    for (int row = begin; row < end; ++row) {
      const int32_t position = batch_.position[row];
      Row(row) = {.position = position,
                  .first_key = shape_.window > 0 ? std::max(0, position - shape_.window + 1) : 0};
    }
    const int first_block = Row(begin).first_key / kKvBlockTokens;
    const int block_end = Row(end - 1).position / kKvBlockTokens + 1;
    const int32_t table = static_cast<int32_t>(plan_.blocks.size()) - first_block;
    const int32_t* const blocks = batch_.block_table[begin];
    plan_.blocks.insert(plan_.blocks.end(), blocks + first_block, blocks + block_end);
    for (int row = begin; row < end; ++row) Row(row).table = table;
  }

  // Rows [begin, end), whose queries go together. `share_out`: each split is a unit, if there is room.
  void AddGroup(int begin, int end, bool share_out) {
    const int first = FirstSplit(begin);
    const int last = LastSplit(end - 1);
    int64_t partials = 0;
    for (int row = begin; row < end; ++row) {
      const int splits = LastSplit(row) - FirstSplit(row) + 1;
      if (splits > 1) partials += splits;
    }
    if (!share_out || plan_.partials + partials > max_partials_) {
      AddUnits(begin, end, first, last + 1);
      return;
    }
    for (int row = begin; row < end; ++row) {
      const int splits = LastSplit(row) - FirstSplit(row) + 1;
      if (splits == 1) continue;
      Row(row).partial = static_cast<int32_t>(plan_.partials);
      plan_.partials += splits;
      plan_.merged.push_back(row);
    }
    for (int split = first; split <= last; ++split) {
      int from = begin;
      while (from < end && LastSplit(from) < split) ++from;
      int to = from;
      while (to < end && FirstSplit(to) <= split) ++to;
      if (to > from) AddUnits(from, to, split, split + 1);
    }
  }

  void AddUnits(int begin, int end, int split_begin, int split_end) {
    for (int head = 0; head < heads_; head += unit_heads_) {
      const int heads = std::min(unit_heads_, heads_ - head);
      const int rows = end - begin;
      const bool narrow = rows * heads <= kNarrowQueries;
      (narrow ? plan_.narrow : plan_.wide).push_back({begin, rows, head, heads, split_begin, split_end});
      if (narrow) plan_.narrow_queries = std::max(plan_.narrow_queries, rows * heads);
    }
  }

  const AttentionShape& shape_;
  const AttentionBatch& batch_;
  const int heads_;  // that share a KV head
  const int most_queries_;
  const int unit_heads_;
  const int64_t max_partials_;
  AttentionPlan& plan_;
};

}  // namespace

void PlanAttention(const AttentionShape& shape, const AttentionBatch& batch, int64_t max_partials,
                   AttentionPlan* plan) {
  Planner(shape, batch, max_partials, plan).Run();
}

AttentionExtent ExtentOf(const AttentionPlan& plan) {
  return {.narrow = static_cast<int32_t>(plan.narrow.size()),
          .narrow_queries = plan.narrow_queries,
          .wide = static_cast<int32_t>(plan.wide.size()),
          .merged = static_cast<int32_t>(plan.merged.size()),
          .partials = plan.partials};
}

AttentionExtent RoundUpExtent(const AttentionExtent& extent, int rows, int64_t max_partials) {
  AttentionExtent rounded;
  rounded.narrow = PowerOfTwo(extent.narrow);
  rounded.wide = PowerOfTwo(extent.wide);
  // A kernel there is for each of these.
  rounded.narrow_queries = extent.narrow_queries <= 1   ? extent.narrow_queries
                           : extent.narrow_queries <= 4 ? 4
                                                        : kNarrowQueries;
  rounded.merged = extent.merged > 0 ? rows : 0;
  rounded.partials = std::min(PowerOfTwo(extent.partials), max_partials);
  return rounded;
}

CudaAttention::CudaAttention(CudaContext* context, int64_t partial_bytes)
    : context_(*context), partial_bytes_(partial_bytes), partials_(context) {
  for (auto& step : steps_) step = std::make_unique<Step>(context);
}

absl::Status CudaAttention::Reserve(const ModelConfig& config, int rows) {
  const int64_t seen = config.sliding_window > 0
                           ? std::min(config.sliding_window + kAttentionSplit, config.context_tokens)
                           : config.context_tokens;
  const int64_t splits = (seen + kAttentionSplit - 1) / kAttentionSplit;
  // Twice as many as there are may have a place (RoundUpExtent).
  const int64_t unit_bytes = 2 * (config.heads / config.kv_heads) * int64_t{sizeof(AttendUnit)};
  const int64_t block_bytes = kAttentionSplit / kKvBlockTokens * int64_t{sizeof(int32_t)};
  const int64_t row_bytes =
      int64_t{sizeof(AttendRow)} + int64_t{sizeof(int32_t)} + int64_t{sizeof(float)} * config.rope.dims;
  const int64_t tables = std::min(kTableBytes, (splits + 1) * rows * (unit_bytes + block_bytes));
  for (auto& step : steps_) {
    MOEPOOL_RETURN_IF_ERROR(step->memory.Reserve(static_cast<size_t>(rows * row_bytes + tables + 1024)));
  }
  if (splits == 1) return absl::OkStatus();
  const int64_t partial_bytes = (config.head_dim + 2) * int64_t{config.heads} * int64_t{sizeof(float)};
  const int64_t partials = PowerOfTwo(rows * splits) * partial_bytes;
  return partials_.Reserve(static_cast<size_t>(std::min(partial_bytes_, partials) + 16));
}

bool CudaAttention::Step::Serves(const AttentionShape& other, const AttentionBatch& batch) const {
  return batch.step != 0 && batch.step == step && other.heads == shape.heads &&
         other.kv_heads == shape.kv_heads && other.head_dim == shape.head_dim &&
         other.rope_dims == shape.rope_dims && other.window == shape.window;
}

AttentionExtent CudaAttention::Prepare(const AttentionShape& shape, const AttentionBatch& batch) {
  return StepOf(shape, batch, /*rounded=*/true).extent;
}

const CudaAttention::Step& CudaAttention::StepOf(const AttentionShape& shape, const AttentionBatch& batch,
                                                 bool rounded) {
  MOEPOOL_CHECK(batch.micro_batch >= 0 && batch.micro_batch < kMostMicroBatches);
  Step& step = *steps_[static_cast<size_t>(batch.micro_batch)];
  if (step.Serves(shape, batch) && (step.there != nullptr || !rounded)) return step;
  const int64_t partial_floats = int64_t{shape.heads} * (shape.head_dim + 2);
  const int64_t max_partials = partial_bytes_ / static_cast<int64_t>(sizeof(float)) / partial_floats;
  PlanAttention(shape, batch, max_partials, &plan_);
  AttentionExtent& extent = step.extent;
  extent = ExtentOf(plan_);
  const std::array<int32_t, 3> counts = {extent.narrow, extent.wide, extent.merged};
  if (rounded) extent = RoundUpExtent(extent, batch.rows, max_partials);
  const size_t angles = static_cast<size_t>(batch.rows) * static_cast<size_t>(shape.rope_dims / 2);
  const size_t there = upload_.Add(std::span<const int32_t>(counts));
  const size_t rows = upload_.Add(plan_.rows);
  const size_t cos = upload_.Add(batch.cos, angles * sizeof(float));
  const size_t sin = upload_.Add(batch.sin, angles * sizeof(float));
  const size_t narrow = upload_.Add(plan_.narrow, static_cast<size_t>(extent.narrow));
  const size_t wide = upload_.Add(plan_.wide, static_cast<size_t>(extent.wide));
  const size_t merged = upload_.Add(plan_.merged, static_cast<size_t>(extent.merged));
  const size_t blocks = upload_.Add(plan_.blocks);  // last: the extent does not tell how many
  upload_.Send(&context_, &step.memory);
  step.step = batch.step;
  step.shape = shape;
  step.tables = {upload_.At<const AttendRow>(rows), upload_.At<const int32_t>(blocks),
                 upload_.At<const float>(cos), upload_.At<const float>(sin)};
  step.narrow = upload_.At<const AttendUnit>(narrow);
  step.wide = upload_.At<const AttendUnit>(wide);
  step.merged = upload_.At<const int32_t>(merged);
  step.there = rounded ? upload_.At<const int32_t>(there) : nullptr;
  return step;
}

void CudaAttention::Run(const AttentionShape& shape, const AttentionBatch& batch, const KvLayer& kv,
                        float* qkv, float* out) {
  if (batch.rows == 0) return;
  MOEPOOL_CHECK(shape.head_dim % 2 == 0 && shape.heads % shape.kv_heads == 0);
  MOEPOOL_CHECK(kv.type != KvType::kQ8_0 || shape.head_dim % kKvQuantBlock == 0);
  const Step& step = StepOf(shape, batch, /*rounded=*/false);
  const AttentionExtent& extent = step.extent;
  const AttentionKernels& kernels = context_.kernels().attention;
  void* const stream = context_.device().Stream();
  const int64_t head_bytes = KvHeadBlockBytes(kv.type, shape.head_dim);
  kernels.project({.shape = shape,
                   .tables = step.tables,
                   .kv = kv,
                   .head_bytes = head_bytes,
                   .qkv = qkv,
                   .rows = batch.rows},
                  stream);

  // Maxima and sums first, then accumulators, which are written 16 bytes at once.
  const int64_t results = extent.partials * shape.heads;
  const int64_t accumulators = RoundUp<int64_t>(2 * results, 4);
  float* partials = nullptr;
  if (results > 0) {
    const int64_t floats = accumulators + results * shape.head_dim;
    partials = reinterpret_cast<float*>(partials_.Get(static_cast<size_t>(floats) * sizeof(float)));
  }
  AttendArgs attend = {.tables = step.tables,
                       .kv = kv,
                       .head_bytes = head_bytes,
                       .qkv = qkv,
                       .out = out,
                       .heads = shape.heads,
                       .kv_heads = shape.kv_heads,
                       .head_dim = shape.head_dim,
                       .scale = 1.0f / std::sqrt(static_cast<float>(shape.head_dim)),
                       .partials = partials == nullptr ? nullptr : partials + accumulators,
                       .max_sums = partials};
  const auto there = [&](int i) { return step.there != nullptr ? step.there + i : nullptr; };
  attend.units = step.wide;
  attend.unit_count = extent.wide;
  attend.units_there = there(1);
  attend.queries = kWideQueries;
  kernels.attend(attend, stream);
  attend.units = step.narrow;
  attend.unit_count = extent.narrow;
  attend.units_there = there(0);
  attend.queries = extent.narrow_queries;
  kernels.attend(attend, stream);
  kernels.merge({.rows = step.tables.rows,
                 .merged = step.merged,
                 .count = extent.merged,
                 .merged_there = there(2),
                 .heads = shape.heads,
                 .head_dim = shape.head_dim,
                 .partials = attend.partials,
                 .max_sums = attend.max_sums,
                 .out = out},
                stream);
}

}  // namespace moepool
