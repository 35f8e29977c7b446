// ExpertOps on the CPU. (row, expert) pairs are sorted by expert, so each expert's weights are read once a
// call:
//   1. gate and up for chunks of 32 outputs, the activation, and h quantised in blocks of 32 by the same
//   thread;
//   2. down, from zero, into a leaf a pair, times the pair's weight;
//   3. leaves added along the canonical tree.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "common/backend/cpu/cpu_backend.h"
#include "common/backend/cpu/matmul.h"
#include "common/backend/cpu/scratch.h"
#include "common/backend/expert_pairs.h"
#include "common/base/math.h"
#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

constexpr int64_t kGroupsAQuantBlock = kQuantBlock / kGroupRows;
constexpr int64_t kTileFloats = 4096;    // 16 KiB of stack
constexpr int64_t kSerialFloats = 8192;  // below this a loop over rows is faster on the caller alone
static_assert(kTileFloats >= kQuantBlock * MatMulChunks::kMaxTokens);

// The pairs of one expert, [begin, end) in sorted order, and its place in the shared buffers.
struct ExpertRun {
  const ExpertWeights* weights;
  int64_t begin;
  int64_t end;
  int64_t
      hidden_offset;  // floats: h of the run is [end - begin, padded] here, padded = ffn_e rounded up to 32
  int64_t padded;
  int64_t first_up;  // number of its first chunk in phase 1 and in phase 2
  int64_t first_down;
};

const PackedMatrix& Packed(const std::unique_ptr<Matrix>& matrix) {
  return static_cast<const CpuMatrix&>(*matrix).packed();
}
bool Quantized(const PackedMatrix& w) { return Info(w.dtype).quantized; }
bool Empty(const ExpertWeights& weights) { return weights.down == nullptr; }

struct CpuExpertSet : ExpertSet {
  std::vector<const ExpertWeights*> experts;
};
const std::vector<const ExpertWeights*>& ExpertsOf(const ExpertSet& set) {
  return static_cast<const CpuExpertSet&>(set).experts;
}

class CpuExpertOps : public ExpertOps {
 public:
  explicit CpuExpertOps(CpuDevice* device) : device_(device) {}
  void Run(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
           RowFaults faults) override {
    MutexLock lock(&device_->mutex);
    RunBatch(experts, batch, out, faults);
  }
  absl::StatusOr<std::unique_ptr<ExpertSet>> MakeSet(std::span<const ExpertWeights* const> experts) override;
  bool CanSelect(const ModelConfig& config) const override { return MakeGatePolicy(config).ok(); }
  void Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
              RowFaults faults) override;
  void RunSelected(const ExpertSet& set, const SelectedBatch& batch, float* residual,
                   RowFaults faults) override;
  void Fetch(std::span<Fetched> wanted) override { FetchInPlace(wanted); }

 private:
  void RunBatch(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
                RowFaults faults);
  const float* RunShared(const SelectedBatch& batch, RowFaults faults);
  void PlanRuns(std::span<const ExpertWeights* const> experts, const Activations& x);
  MatMulChunks UpChunks(const ExpertRun& run) const;
  MatMulChunks DownChunks(const ExpertRun& run) const;
  void GateUp(const ExpertRun& run, int64_t chunk);
  void KeepHidden(const ExpertRun& run, int64_t pair, int64_t begin, int64_t width, const float* h);
  void Down(const ExpertRun& run, int64_t chunk);
  bool AddLeaves(int64_t part, float* out);
  float* Leaf(int64_t pair) { return leaves_.Get(0) + pair * leaf_stride_; }

  CpuDevice* const device_;
  int threads_ = 1;  // of the call under way
  int64_t hidden_ = 0;
  int64_t leaf_stride_ = 0;
  PreparedRows prepared_;
  std::vector<ExpertRun> runs_;  // of experts with pairs and weights, ascending; the last holds the totals
  ExpertPairs pairs_;
  std::vector<uint8_t> pair_fault_;  // [pairs]
  std::vector<int32_t> identity_;    // [pairs]
  Scratch<float> plain_;             // h where down is not quantised

  Scratch<ActivationBlock> blocks_;
  Scratch<float> leaves_;  // [pairs, leaf_stride_]

  // Of RunSelected().
  std::vector<ExpertPart> parts_;
  std::vector<ExpertEntry> entries_;
  std::vector<uint8_t> part_faults_;
  Scratch<float> routed_;  // [parts, hidden]
  Scratch<float> shared_;  // [rows, hidden]
};

MatMulChunks CpuExpertOps::UpChunks(const ExpertRun& run) const {
  return MatMulChunks(Packed(run.weights->gate), run.end - run.begin, threads_, kGroupsAQuantBlock);
}
MatMulChunks CpuExpertOps::DownChunks(const ExpertRun& run) const {
  return MatMulChunks(Packed(run.weights->down), run.end - run.begin, threads_, 1);
}

void CpuExpertOps::PlanRuns(std::span<const ExpertWeights* const> experts, const Activations& x) {
  runs_.clear();
  int64_t floats = 0;
  int64_t plain_floats = 0;  // up to the last run that keeps them
  int64_t up_chunks = 0;
  int64_t down_chunks = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t begin = pairs_.expert_begin[e];
    const int64_t end = pairs_.expert_begin[e + 1];
    if (begin == end) continue;
    MOEPOOL_CHECK(experts[e] != nullptr);
    if (Empty(*experts[e])) {
      std::fill(Leaf(begin), Leaf(end), 0.0f);
      continue;
    }
    const PackedMatrix& gate = Packed(experts[e]->gate);
    const PackedMatrix& up = Packed(experts[e]->up);
    const PackedMatrix& down = Packed(experts[e]->down);
    MOEPOOL_CHECK(gate.cols == hidden_ && up.cols == hidden_ && down.rows == hidden_);
    MOEPOOL_CHECK(up.rows == gate.rows && down.cols == gate.rows);
    MOEPOOL_CHECK(Quantized(gate) || Quantized(up) ? x.q != nullptr && x.scale != nullptr : true);
    MOEPOOL_CHECK(Quantized(gate) && Quantized(up) ? true : x.f32 != nullptr);
    const int64_t padded = RoundUp<int64_t>(gate.rows, kQuantBlock);
    runs_.push_back({experts[e], begin, end, floats, padded, up_chunks, down_chunks});
    floats += (end - begin) * padded;
    if (!Quantized(down)) plain_floats = floats;
    up_chunks += UpChunks(runs_.back()).count();
    down_chunks += DownChunks(runs_.back()).count();
  }
  runs_.push_back({nullptr, 0, 0, floats, 0, up_chunks, down_chunks});  // the totals
  plain_.Get(plain_floats);
  blocks_.Get(floats / kQuantBlock);
}

// h = act(gate x) * up x for a chunk of the run's pairs and outputs, tile by tile: what is not yet h stays in
// the first-level cache.
void CpuExpertOps::GateUp(const ExpertRun& run, int64_t chunk) {
  const KernelTable& k = device_->kernels;
  const PackedMatrix& gate = Packed(run.weights->gate);
  const PackedMatrix& up = Packed(run.weights->up);
  const MatMulChunk c = UpChunks(run).At(chunk);
  const int64_t tokens = c.token_end - c.token_begin;
  const ActivationRows x = prepared_.Select(pairs_.row.data() + run.begin + c.token_begin, tokens);
  const int64_t tile_groups = kTileFloats / (kGroupRows * tokens) / kGroupsAQuantBlock * kGroupsAQuantBlock;
  alignas(64) float gate_tile[kTileFloats];
  alignas(64) float up_tile[kTileFloats];
  for (int64_t group = c.group_begin; group < c.group_end; group += tile_groups) {
    const int64_t group_end = std::min(c.group_end, group + tile_groups);
    const int64_t outputs = (group_end - group) * kGroupRows;
    const int64_t width = RoundUp<int64_t>(outputs, kQuantBlock);
    k.matmul[static_cast<int>(gate.dtype)](gate.weights, group, group_end, x, gate_tile, width);
    k.matmul[static_cast<int>(up.dtype)](up.weights, group, group_end, x, up_tile, width);
    for (int64_t t = 0; t < tokens; ++t) {
      float* const h = gate_tile + t * width;
      k.silu_mul(h, up_tile + t * width, outputs, h);
      std::fill(h + outputs, h + width, 0.0f);
      KeepHidden(run, c.token_begin + t, group * kGroupRows, width, h);
    }
  }
}

// Keeps columns [begin, begin + width) of a pair's h in the form that down reads.
void CpuExpertOps::KeepHidden(const ExpertRun& run, int64_t pair, int64_t begin, int64_t width,
                              const float* h) {
  const KernelTable& k = device_->kernels;
  const int64_t at = run.hidden_offset + pair * run.padded + begin;
  if (!Quantized(Packed(run.weights->down))) {
    std::copy_n(h, width, plain_.Get(0) + at);
    return;
  }
  alignas(64) int8_t q[kTileFloats];
  alignas(64) float scale[kTileFloats / kQuantBlock];
  if (!k.quantize(h, width, q, scale)) {
    std::atomic_ref<uint8_t>(pair_fault_[run.begin + pair]).store(1, std::memory_order_relaxed);
  }
  k.activation_blocks(q, scale, width, blocks_.Get(0) + at / kQuantBlock);
}

// Leaf = weight * down h for a chunk of the run's pairs and outputs.
void CpuExpertOps::Down(const ExpertRun& run, int64_t chunk) {
  const KernelTable& k = device_->kernels;
  const PackedMatrix& down = Packed(run.weights->down);
  const MatMulChunk c = DownChunks(run).At(chunk);
  const int64_t at = run.hidden_offset;
  const ActivationRows h = {blocks_.Get(0) + at / kQuantBlock, Quantized(down) ? nullptr : plain_.Get(0) + at,
                            run.padded, identity_.data() + c.token_begin, c.token_end - c.token_begin};
  const int64_t outputs = (c.group_end - c.group_begin) * kGroupRows;
  float* leaf = Leaf(run.begin + c.token_begin) + c.group_begin * kGroupRows;
  k.matmul[static_cast<int>(down.dtype)](down.weights, c.group_begin, c.group_end, h, leaf, leaf_stride_);
  for (int64_t t = c.token_begin; t < c.token_end; ++t, leaf += leaf_stride_) {
    k.scale(leaf, pairs_.weight[run.begin + t], outputs, leaf);
  }
}

// False where the part is not finite.
bool CpuExpertOps::AddLeaves(int64_t part, float* out) {
  const int32_t* const pairs = pairs_.slot_pair.data() + pairs_.part_slot[part];
  const int64_t leaves = pairs_.part_slot[part + 1] - pairs_.part_slot[part];
  for (const PlannedAdd& add : pairs_.Adds(part)) {
    device_->kernels.add(Leaf(pairs[add.src]), hidden_, Leaf(pairs[add.dst]));
  }
  std::copy_n(Leaf(pairs[0]), hidden_, out);
  bool finite = device_->kernels.finite(out, hidden_);
  for (int64_t i = 0; i < leaves; ++i) finite = finite && pair_fault_[pairs[i]] == 0;
  return finite;
}

void CpuExpertOps::RunBatch(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch,
                            float* out, RowFaults faults) {
  TraceSpan sort("sort by expert");
  hidden_ = batch.x.cols;
  // Callers that each take the whole machine would take turns on its cores, and meet threads that have lost
  // theirs at the end of every loop.
  const bool shares_host = batch.host_callers > 1 && batch.host_slot < batch.host_callers;
  threads_ =
      shares_host ? device_->pool.UsePart(batch.host_slot, batch.host_callers) : device_->pool.UsePart(0, 1);
  leaf_stride_ = RoundUp<int64_t>(hidden_, kGroupRows);
  pairs_.Plan(experts.size(), batch);
  const int64_t pairs = pairs_.part_slot.back();
  pair_fault_.assign(static_cast<size_t>(pairs), 0);
  identity_.resize(static_cast<size_t>(pairs));
  std::iota(identity_.begin(), identity_.end(), 0);
  leaves_.Get(pairs * leaf_stride_);
  PlanRuns(experts, batch.x);
  prepared_.Prepare(device_, batch.x, batch.x.q != nullptr, threads_);

  const auto run_of = [this](int64_t chunk, int64_t ExpertRun::*first) -> const ExpertRun& {
    const auto after = std::upper_bound(runs_.begin(), runs_.end(), chunk,
                                        [first](int64_t c, const ExpertRun& run) { return c < run.*first; });
    return *(after - 1);
  };
  sort.End();
  TraceSpan up("gate and up");
  device_->pool.ParallelFor(runs_.back().first_up, threads_, [&](int64_t chunk) {
    const ExpertRun& run = run_of(chunk, &ExpertRun::first_up);
    GateUp(run, chunk - run.first_up);
  });
  up.End();
  TraceSpan down("down");
  device_->pool.ParallelFor(runs_.back().first_down, threads_, [&](int64_t chunk) {
    const ExpertRun& run = run_of(chunk, &ExpertRun::first_down);
    Down(run, chunk - run.first_down);
  });
  down.End();
  const TraceSpan add("add");
  device_->pool.ParallelFor(static_cast<int64_t>(batch.parts.size()), threads_, [&](int64_t part) {
    if (!AddLeaves(part, out + part * hidden_)) faults[part] = 1;
  });
}

absl::StatusOr<std::unique_ptr<ExpertSet>> CpuExpertOps::MakeSet(
    std::span<const ExpertWeights* const> experts) {
  if (std::find(experts.begin(), experts.end(), nullptr) != experts.end()) return nullptr;
  auto set = std::make_unique<CpuExpertSet>();
  set->experts.assign(experts.begin(), experts.end());
  return set;
}

void CpuExpertOps::Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
                          RowFaults faults) {
  const auto policy = MakeGatePolicy(config);
  MOEPOOL_CHECK(policy.ok());
  const auto experts = static_cast<size_t>(config.experts);
  const auto k = static_cast<size_t>(config.experts_per_token);
  for (size_t row = 0; row < static_cast<size_t>(rows); ++row) {
    const std::span<SelectedExpert> chosen(selected + row * k, k);
    const std::span<const float> own =
        logits != nullptr ? std::span(logits + row * experts, experts) : std::span<const float>();
    if (!faults[row] && !(*policy)->Select(own, chosen)) faults[row] = 1;
    if (faults[row]) std::fill(chosen.begin(), chosen.end(), SelectedExpert{-1, 0.0f});
  }
}

// [rows, hidden] of the shared expert, or null.
const float* CpuExpertOps::RunShared(const SelectedBatch& batch, RowFaults faults) {
  if (batch.shared == nullptr) return nullptr;
  parts_.clear();
  entries_.clear();
  for (int32_t row = 0; row < batch.x.rows; ++row) {
    float weight = 1;
    if (batch.shared_logits != nullptr) {
      if (!std::isfinite(batch.shared_logits[row])) faults[row] = 1;
      weight = Sigmoid(batch.shared_logits[row]);
    }
    entries_.push_back({0, weight});
    parts_.push_back({row, row, row + 1});
  }
  float* const shared = shared_.Get(int64_t{batch.x.rows} * batch.x.cols);
  RunBatch(ExpertsOf(*batch.shared), {.x = batch.x, .parts = parts_, .entries = entries_}, shared, faults);
  return shared;
}

void CpuExpertOps::RunSelected(const ExpertSet& set, const SelectedBatch& batch, float* residual,
                               RowFaults faults) {
  MutexLock lock(&device_->mutex);
  const float* const shared = RunShared(batch, faults);
  parts_.clear();
  entries_.clear();
  for (int32_t row = 0; row < batch.x.rows; ++row) {
    const SelectedExpert* const chosen = batch.selected + int64_t{row} * batch.experts_per_token;
    if (chosen[0].expert < 0) continue;
    const auto begin = static_cast<int32_t>(entries_.size());
    for (int i = 0; i < batch.experts_per_token; ++i)
      entries_.push_back({chosen[i].expert, chosen[i].weight});
    parts_.push_back({row, begin, static_cast<int32_t>(entries_.size())});
  }
  part_faults_.assign(parts_.size(), 0);
  const int64_t cols = batch.x.cols;
  float* const routed = routed_.Get(static_cast<int64_t>(parts_.size()) * cols);
  RunBatch(ExpertsOf(set), {.x = batch.x, .parts = parts_, .entries = entries_}, routed, part_faults_);
  const TraceSpan add("add to residual");
  const auto parts = static_cast<int64_t>(parts_.size());
  device_->pool.ParallelFor(parts, parts * cols < kSerialFloats ? 1 : threads_, [&](int64_t part) {
    const int64_t row = parts_[static_cast<size_t>(part)].row;
    float* const sum = routed + part * cols;
    if (shared != nullptr) device_->kernels.add(shared + row * cols, cols, sum);
    device_->kernels.add(sum, cols, residual + row * cols);
    if (part_faults_[static_cast<size_t>(part)]) faults[static_cast<size_t>(row)] = 1;
  });
}

}  // namespace

std::unique_ptr<ExpertOps> MakeCpuExpertOps(CpuDevice* device) {
  return std::make_unique<CpuExpertOps>(device);
}

}  // namespace moepool
