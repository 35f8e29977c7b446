// See cuda_selected.h.
#include "common/backend/cuda/cuda_selected.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/expert_work.h"
#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

constexpr size_t kAlignment = 256;

// Arrays that lie one after the other in a scratch.
class Layout {
 public:
  template <typename T>
  size_t Add(size_t count) {
    const size_t place = bytes_;
    bytes_ += RoundUp<size_t>(count * sizeof(T), kAlignment);
    return place;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

struct PlanPlaces {
  PlanPlaces(size_t rows, size_t pairs, size_t most_tiles) {
    Layout layout;
    tile_count = layout.Add<int32_t>(1);
    tiles = layout.Add<ExpertTile>(most_tiles);
    pair_row = layout.Add<int32_t>(pairs);
    pair_weight = layout.Add<float>(pairs);
    pair_expert = layout.Add<int32_t>(pairs);
    slot_pair = layout.Add<int32_t>(pairs);
    part_begin = layout.Add<int32_t>(rows + 1);
    adds = layout.Add<PlannedAdd>(pairs);
    part_adds = layout.Add<AddRange>(rows);
    bytes = layout.bytes();
  }
  size_t tile_count;
  size_t tiles;
  size_t pair_row;
  size_t pair_weight;
  size_t pair_expert;
  size_t slot_pair;
  size_t part_begin;
  size_t adds;
  size_t part_adds;
  size_t bytes;
};

// Of the shared expert: who takes it, and its sums.
struct SharedPlaces {
  SharedPlaces(size_t rows, size_t cols) {
    Layout layout;
    selected = layout.Add<SelectedExpert>(rows);
    sums = layout.Add<float>(rows * cols);
    bytes = layout.bytes();
  }
  size_t selected;
  size_t sums;
  size_t bytes;
};

}  // namespace

class CudaExpertSet final : public ExpertSet {
 public:
  explicit CudaExpertSet(CudaContext* context) : table(context) {}
  DeviceScratch table;                    // DeviceExpert [experts]
  const DeviceExpert* experts = nullptr;  // there
  int32_t count = 0;
  int32_t with_weights = 0;  // that are no empty slices
  int32_t hidden = 0;
  int32_t max_ffn = 0;
  bool plain_up = false;
  bool plain_down = false;
  int32_t up_type = -1;  // as in ExpertsArgs
  int32_t down_type = -1;
};

CudaSelected::CudaSelected(CudaContext* context, DeviceScratch* hidden, DeviceScratch* leaves)
    : context_(*context), hidden_(*hidden), leaves_(*leaves), plan_(context), shared_(context) {}

absl::Status CudaSelected::Reserve(int hidden, const LargestCall& call) {
  if (!sets_made_) return absl::OkStatus();
  const auto rows = static_cast<size_t>(call.rows);
  const auto pairs = rows * static_cast<size_t>(call.experts_per_row);
  MOEPOOL_RETURN_IF_ERROR(plan_.Reserve(PlanPlaces(rows, pairs, pairs).bytes));
  return shared_.Reserve(SharedPlaces(rows, static_cast<size_t>(hidden)).bytes);
}

absl::StatusOr<std::unique_ptr<ExpertSet>> CudaSelected::MakeSet(
    std::span<const ExpertWeights* const> experts) {
  if (experts.empty() || experts.size() > kMostGateExperts) return nullptr;
  auto set = std::make_unique<CudaExpertSet>(&context_);
  std::vector<DeviceExpert> table(experts.size());
  std::optional<DType> types[2];
  bool several[2] = {false, false};
  for (size_t e = 0; e < experts.size(); ++e) {
    if (experts[e] == nullptr) return nullptr;
    if (experts[e]->down == nullptr) continue;
    const std::unique_ptr<Matrix>* const matrices[] = {&experts[e]->gate, &experts[e]->up, &experts[e]->down};
    DeviceWeights* const places[] = {&table[e].gate, &table[e].up, &table[e].down};
    for (int i = 0; i < 3; ++i) {
      const auto& matrix = static_cast<const CudaMatrix&>(**matrices[i]);
      if (matrix.pinned()) return nullptr;
      *places[i] = matrix.weights();
      std::optional<DType>& type = types[i / 2];  // up, down
      if (type.has_value() && Info(*type).quantized != Info(matrix.dtype()).quantized) return nullptr;
      several[i / 2] = several[i / 2] || type.value_or(matrix.dtype()) != matrix.dtype();
      type = matrix.dtype();
    }
    const DeviceExpert& own = table[e];
    if (set->with_weights++ == 0) set->hidden = own.gate.cols;
    MOEPOOL_CHECK(own.gate.cols == set->hidden && own.up.cols == set->hidden && own.down.rows == set->hidden);
    MOEPOOL_CHECK(own.up.rows == own.gate.rows && own.down.cols == own.gate.rows);
    set->max_ffn = std::max(set->max_ffn, own.gate.rows);
    set->plain_up = Plain(own.gate);
    set->plain_down = Plain(own.down);
  }
  if (types[0].has_value() && !several[0]) set->up_type = static_cast<int32_t>(*types[0]);
  if (types[1].has_value() && !several[1]) set->down_type = static_cast<int32_t>(*types[1]);
  for (const ExpertWeights* expert : experts) {
    if (expert->down == nullptr) continue;
    for (const auto* matrix : {&expert->gate, &expert->up, &expert->down}) {
      static_cast<CudaMatrix&>(**matrix).Stay();
    }
  }
  context_.device().StreamAfterAside();  // of what has changed places just now
  sets_made_ = true;
  set->count = static_cast<int32_t>(experts.size());
  const size_t bytes = table.size() * sizeof(DeviceExpert);
  MOEPOOL_RETURN_IF_ERROR(set->table.Reserve(bytes));
  std::byte* const staged = context_.Stage(bytes);
  std::memcpy(staged, table.data(), bytes);
  std::byte* const placed = set->table.Get(bytes);
  context_.device().Copy(placed, staged, bytes);
  set->experts = reinterpret_cast<const DeviceExpert*>(placed);
  return set;
}

bool CudaSelected::CanSelect(const ModelConfig& config) {
  return config.experts <= kMostGateExperts && MakeGatePolicy(config).ok();
}

void CudaSelected::Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
                          RowFaults faults) {
  GateArgs args;
  args.gate = config.gate;
  args.logits = logits;
  args.rows = rows;
  args.experts = config.experts;
  args.experts_per_token = config.experts_per_token;
  args.selected = selected;
  args.faults = context_.Report(faults.subspan(0, static_cast<size_t>(rows)));
  context_.kernels().select(args, Stream());
}

// [rows, hidden] of the shared expert, or null.
const float* CudaSelected::RunShared(const SelectedBatch& batch, DeviceFaults faults) {
  if (batch.shared == nullptr) return nullptr;
  const auto rows = static_cast<size_t>(batch.x.rows);
  const SharedPlaces places(rows, static_cast<size_t>(batch.x.cols));
  std::byte* const base = shared_.Get(places.bytes);
  SharedGateArgs gate;
  gate.logits = batch.shared_logits;
  gate.rows = batch.x.rows;
  gate.selected = reinterpret_cast<SelectedExpert*>(base + places.selected);
  gate.faults = faults;
  context_.kernels().select_shared(gate, Stream());
  auto* const out = reinterpret_cast<float*>(base + places.sums);
  RunSet(static_cast<const CudaExpertSet&>(*batch.shared), batch.x, gate.selected, 1,
         {.out = out, .faults = faults});
  return out;
}

void CudaSelected::Run(const ExpertSet& set, const SelectedBatch& batch, float* residual, RowFaults faults) {
  if (batch.x.rows == 0) return;
  const TraceSpan span("queue experts");
  const DeviceFaults reported = context_.Report(faults.subspan(0, static_cast<size_t>(batch.x.rows)));
  const float* const shared = RunShared(batch, reported);
  RunSet(static_cast<const CudaExpertSet&>(set), batch.x, batch.selected, batch.experts_per_token,
         {.shared = shared, .residual = residual, .faults = reported});
}

void CudaSelected::RunSet(const CudaExpertSet& set, const Activations& x, const SelectedExpert* selected,
                          int k, const Sums& sums) {
  MOEPOOL_CHECK(set.with_weights == 0 || set.hidden == x.cols);
  MOEPOOL_CHECK(set.with_weights == 0 ||
                (set.plain_up ? x.f32 != nullptr : x.q != nullptr && x.scale != nullptr));
  const auto rows = static_cast<size_t>(x.rows);
  const size_t pairs = rows * static_cast<size_t>(k);
  // What the device will find is guessed from the mean. Results do not depend on it.
  const bool few = x.rows <= kFewPairs || pairs <= static_cast<size_t>(set.count) * (kFewPairs / 2);
  const int tile_pairs = few ? kFewPairs : kManyPairs;
  const size_t used = std::min(pairs, static_cast<size_t>(set.with_weights));
  // An empty grid is an error.
  const size_t most_tiles =
      used == 0 ? 0 : (pairs + used * static_cast<size_t>(tile_pairs - 1)) / static_cast<size_t>(tile_pairs);

  const PlanPlaces places(rows, pairs, most_tiles);
  std::byte* const base = plan_.Get(places.bytes);
  PlanArgs plan;
  plan.selected = selected;
  plan.experts = set.experts;
  plan.rows = x.rows;
  plan.experts_per_token = k;
  plan.expert_count = set.count;
  plan.tile_pairs = tile_pairs;
  plan.tile_count = reinterpret_cast<int32_t*>(base + places.tile_count);
  plan.tiles = reinterpret_cast<ExpertTile*>(base + places.tiles);
  plan.pair_row = reinterpret_cast<int32_t*>(base + places.pair_row);
  plan.pair_weight = reinterpret_cast<float*>(base + places.pair_weight);
  plan.pair_expert = reinterpret_cast<int32_t*>(base + places.pair_expert);
  plan.slot_pair = reinterpret_cast<int32_t*>(base + places.slot_pair);
  plan.part_begin = reinterpret_cast<int32_t*>(base + places.part_begin);
  plan.adds = reinterpret_cast<PlannedAdd*>(base + places.adds);
  plan.part_adds = reinterpret_cast<AddRange*>(base + places.part_adds);
  context_.kernels().plan(plan, Stream());

  ExpertsArgs args;
  args.experts = set.experts;
  args.tiles = plan.tiles;
  args.tile_count = static_cast<int32_t>(most_tiles);
  args.tiles_there = plan.tile_count;
  args.tile_pairs = tile_pairs;
  args.plain_up = set.plain_up;
  args.plain_down = set.plain_down;
  args.up_type = set.up_type;
  args.down_type = set.down_type;
  args.max_ffn = set.max_ffn;
  args.padded = RoundUp(set.max_ffn, int32_t{kQuantBlock});
  args.hidden = x.cols;
  args.x = {x.f32, x.q, x.scale};
  args.pair_row = plan.pair_row;
  args.pair_weight = plan.pair_weight;
  PlaceHidden(&context_, pairs, set.plain_down, &hidden_, &args);
  HiddenKernel(context_)(args, Stream());

  LeavesArgs leaves;
  leaves.pair_fault = args.pair_fault;
  leaves.slot_pair = plan.slot_pair;
  leaves.part_begin = plan.part_begin;
  leaves.adds = plan.adds;
  leaves.part_adds = plan.part_adds;
  leaves.parts = x.rows;
  leaves.cols = x.cols;
  leaves.out = sums.out;
  leaves.shared = sums.shared;
  leaves.residual = sums.residual;
  leaves.faults = sums.faults;
  const double chosen = static_cast<double>(k) / set.count;  // of the experts, by a row
  const double expected = set.count * (1 - std::pow(1 - chosen, x.rows));
  const bool fused = context_.fused() && !set.plain_down && set.with_weights > 0 && k <= kMaxFusedSlots &&
                     static_cast<double>(pairs) <= double{kPairsReadAgain} * expected;
  if (fused) {
    context_.kernels().expert_parts({args, plan.pair_expert, leaves}, Stream());
    return;
  }
  const size_t bytes = pairs * static_cast<size_t>(x.cols) * sizeof(float);
  args.leaves = leaves.leaves = reinterpret_cast<float*>(leaves_.Get(bytes));
  // Those of empty slices stay as they are.
  if (set.with_weights < set.count) context_.device().Zero(args.leaves, bytes);
  context_.kernels().expert_leaves(args, Stream());
  context_.kernels().add_leaves(leaves, Stream());
}

}  // namespace moepool
