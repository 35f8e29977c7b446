// ExpertOps on a GPU. The host sorts the pairs by expert and cuts them into tiles. One launch makes h of all
// experts; where few pairs share an expert a second makes the parts, otherwise a second makes the leaves and
// a third adds them. Experts that are still on their way to the device have launches of their own, after the
// others'. Nothing waits for the host.
#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/cuda_selected.h"
#include "common/backend/cuda/expert_work.h"
#include "common/backend/expert_pairs.h"
#include "common/base/rounding.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

constexpr int32_t kSeveralTypes = -1;
constexpr int32_t kNoType = -2;

const DeviceWeights& WeightsOf(const std::unique_ptr<Matrix>& matrix) {
  return static_cast<const CudaMatrix&>(*matrix).weights();
}

class CudaExpertOps final : public ReservingExpertOps {
 public:
  CudaExpertOps(CudaContext* context, ExpertPlaces* places)
      : context_(*context),
        places_(places),
        uploaded_(context),
        hidden_(context),
        leaves_(context),
        selected_(context, &hidden_, &leaves_),
        fetched_(&context->device()) {}

  absl::Status Reserve(int hidden, const LargestCall& call) override;

  void Run(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
           RowFaults faults) override {
    if (batch.parts.empty()) return;
    MutexLock lock(&context_.mutex());
    const TraceSpan span("queue experts");
    if (places_ != nullptr) places_->Begin(experts);
    Queue(experts, batch, out, faults);
    if (places_ != nullptr) places_->Exchange();
  }

  absl::StatusOr<std::unique_ptr<ExpertSet>> MakeSet(std::span<const ExpertWeights* const> experts) override {
    MutexLock lock(&context_.mutex());
    return selected_.MakeSet(experts);
  }
  bool CanSelect(const ModelConfig& config) const override { return CudaSelected::CanSelect(config); }
  void Select(const ModelConfig& config, const float* logits, int rows, SelectedExpert* selected,
              RowFaults faults) override {
    MutexLock lock(&context_.mutex());
    selected_.Select(config, logits, rows, selected, faults);
  }
  void RunSelected(const ExpertSet& set, const SelectedBatch& batch, float* residual,
                   RowFaults faults) override {
    MutexLock lock(&context_.mutex());
    selected_.Run(set, batch, residual, faults);
  }

  void Fetch(std::span<Fetched> wanted) override {
    MutexLock lock(&context_.mutex());
    context_.Fetch(wanted, &fetched_);
  }

 private:
  // Tiles by whether their expert is late (expert_cache.h), and by whether the weights of a launch are plain.
  struct Tiles {
    std::vector<ExpertTile> of[2][2];
    int32_t most_pairs = 0;
    void Add(bool late, bool plain, ExpertTile run, int32_t pairs_a_tile);
    bool Any(bool plain) const { return !of[0][plain].empty() || !of[1][plain].empty(); }
  };

  void Queue(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
             RowFaults faults);

  // Whether parts are to be made straight from h.
  bool Fused(size_t pairs) const;
  PlacedExpert Locate(const ExpertWeights& expert);
  void PlanTiles(std::span<const ExpertWeights* const> experts, const Activations& x);
  void* Stream() { return context_.device().Stream(); }

  CudaContext& context_;
  ExpertPlaces* const places_;
  ExpertPairs pairs_;
  std::vector<DeviceExpert> used_;    // that have pairs and weights
  std::vector<int32_t> pair_expert_;  // [pairs] in used_; -1: its slice is empty
  std::vector<ExpertTile> empty_;     // runs of pairs whose expert's slice is empty
  Tiles up_;
  Tiles down_;
  bool late_ = false;  // any expert is
  int32_t max_ffn_ = 0;
  int32_t up_type_ = kNoType;
  int32_t down_type_ = kNoType;
  Upload upload_;
  DeviceScratch uploaded_;
  DeviceScratch hidden_;  // h and pair faults
  DeviceScratch leaves_;
  CudaSelected selected_;
  HostScratch fetched_;
};

absl::Status CudaExpertOps::Reserve(int hidden, const LargestCall& call) {
  MutexLock lock(&context_.mutex());
  const size_t rows = static_cast<size_t>(call.rows);
  const size_t pairs = rows * static_cast<size_t>(call.experts_per_row);
  const size_t cols = static_cast<size_t>(hidden);
  // Each pair a part, and an expert, of its own; rows in every form.
  constexpr size_t kPairBytes = sizeof(DeviceExpert) + 2 * sizeof(ExpertTile) + sizeof(PlannedAdd) +
                                sizeof(AddRange) + 5 * sizeof(int32_t);
  const size_t row_bytes = cols * (sizeof(float) + 1) + cols / kQuantBlock * sizeof(float);
  MOEPOOL_RETURN_IF_ERROR(uploaded_.Reserve(rows * row_bytes + pairs * kPairBytes + 2048));
  const size_t padded = RoundUp<size_t>(static_cast<size_t>(call.ffn), kQuantBlock);
  MOEPOOL_RETURN_IF_ERROR(hidden_.Reserve(HiddenPlaces(pairs, padded).Bytes(true, context_.fused())));
  MOEPOOL_RETURN_IF_ERROR(selected_.Reserve(hidden, call));
  return leaves_.Reserve(pairs * cols * sizeof(float));
}

void CudaExpertOps::Tiles::Add(bool late, bool plain, ExpertTile run, int32_t pairs_a_tile) {
  for (int32_t begin = run.begin; begin < run.end; begin += pairs_a_tile) {
    of[late][plain].push_back({run.expert, begin, std::min(run.end, begin + pairs_a_tile)});
  }
}

void CudaExpertOps::PlanTiles(std::span<const ExpertWeights* const> experts, const Activations& x) {
  used_.clear();
  pair_expert_.clear();
  empty_.clear();
  for (Tiles* tiles : {&up_, &down_}) {
    for (auto& of : tiles->of) {
      for (std::vector<ExpertTile>& each : of) each.clear();
    }
  }
  late_ = false;
  max_ffn_ = 0;
  up_type_ = down_type_ = kNoType;
  int32_t most = 0;
  for (size_t e = 0; e < experts.size(); ++e) {
    most = std::max(most, pairs_.expert_begin[e + 1] - pairs_.expert_begin[e]);
  }
  const int32_t pairs_a_tile = most <= kFewPairs ? kFewPairs : kManyPairs;
  up_.most_pairs = down_.most_pairs = pairs_a_tile;
  for (size_t e = 0; e < experts.size(); ++e) {
    ExpertTile run = {static_cast<int32_t>(used_.size()), pairs_.expert_begin[e], pairs_.expert_begin[e + 1]};
    if (run.begin == run.end) continue;
    MOEPOOL_CHECK(experts[e] != nullptr);
    const bool empty = experts[e]->down == nullptr;
    pair_expert_.insert(pair_expert_.end(), static_cast<size_t>(run.end - run.begin),
                        empty ? -1 : run.expert);
    if (empty) {
      empty_.push_back(run);
      continue;
    }
    const auto [expert, late] = Locate(*experts[e]);
    late_ = late_ || late;
    MOEPOOL_CHECK(expert.gate.cols == x.cols && expert.up.cols == x.cols && expert.down.rows == x.cols);
    MOEPOOL_CHECK(expert.up.rows == expert.gate.rows && expert.down.cols == expert.gate.rows);
    const bool plain = Plain(expert.gate);
    MOEPOOL_CHECK(plain == Plain(expert.up));
    MOEPOOL_CHECK(plain ? x.f32 != nullptr : x.q != nullptr && x.scale != nullptr);
    const auto type = [&](int32_t* all, const DeviceWeights& w) {
      const auto own = static_cast<int32_t>(w.dtype);
      *all = *all == kNoType || *all == own ? own : kSeveralTypes;
    };
    type(&up_type_, expert.gate);
    type(&up_type_, expert.up);
    type(&down_type_, expert.down);
    used_.push_back(expert);
    max_ffn_ = std::max(max_ffn_, expert.gate.rows);
    up_.Add(late, plain, run, pairs_a_tile);
    down_.Add(late, Plain(expert.down), run, pairs_a_tile);
  }
}

PlacedExpert CudaExpertOps::Locate(const ExpertWeights& expert) {
  if (places_ != nullptr) return places_->Use(expert);
  return {{WeightsOf(expert.gate), WeightsOf(expert.up), WeightsOf(expert.down)}, false};
}

bool CudaExpertOps::Fused(size_t pairs) const {
  if (!context_.fused() || down_.Any(true) || pairs > kPairsReadAgain * used_.size()) return false;
  int32_t most = 0;
  for (size_t p = 0; p + 1 < pairs_.part_slot.size(); ++p) {
    most = std::max(most, pairs_.part_slot[p + 1] - pairs_.part_slot[p]);
  }
  return most <= kMaxFusedSlots;
}

void CudaExpertOps::Queue(std::span<const ExpertWeights* const> experts, const ExpertBatch& batch, float* out,
                          RowFaults faults) {
  pairs_.Plan(experts.size(), batch);
  PlanTiles(experts, batch.x);
  const size_t pairs = static_cast<size_t>(pairs_.part_slot.back());
  const size_t cols = static_cast<size_t>(batch.x.cols);
  const size_t elements = static_cast<size_t>(batch.x.rows) * cols;

  const bool quantized_rows = up_.Any(false);
  const bool plain_rows = up_.Any(true);
  size_t q = 0;
  size_t scale = 0;
  size_t f32 = 0;
  if (batch.host_rows && quantized_rows) {
    q = upload_.Add(batch.x.q, elements);
    scale = upload_.Add(batch.x.scale, elements / kQuantBlock * sizeof(float));
  }
  if (batch.host_rows && plain_rows) f32 = upload_.Add(batch.x.f32, elements * sizeof(float));
  const size_t used = upload_.Add(used_);
  const size_t row = upload_.Add(pairs_.row);
  const size_t weight = upload_.Add(pairs_.weight);
  const size_t slot_pair = upload_.Add(pairs_.slot_pair);
  const size_t pair_expert = upload_.Add(pair_expert_);
  const size_t part_slot = upload_.Add(pairs_.part_slot);
  const size_t adds = upload_.Add(pairs_.adds);
  const size_t part_adds = upload_.Add(pairs_.part_adds);
  using TilePlaces = std::array<std::array<size_t, 2>, 2>;
  const auto add_tiles = [this](const Tiles& tiles) {
    TilePlaces places;
    for (const int late : {0, 1}) {
      for (const int plain : {0, 1}) places[late][plain] = upload_.Add(tiles.of[late][plain]);
    }
    return places;
  };
  const TilePlaces up_tiles = add_tiles(up_);
  const TilePlaces down_tiles = add_tiles(down_);
  upload_.Send(&context_, &uploaded_);

  ExpertsArgs args;
  args.experts = upload_.At<const DeviceExpert>(used);
  args.up_type = up_type_;
  args.down_type = down_type_;
  args.max_ffn = max_ffn_;
  args.padded = RoundUp(max_ffn_, int32_t{kQuantBlock});
  args.hidden = batch.x.cols;
  args.x = {batch.x.f32, batch.x.q, batch.x.scale};
  if (batch.host_rows) {
    args.x = {upload_.At<float>(f32), upload_.At<int8_t>(q), upload_.At<float>(scale)};
  }
  args.pair_row = upload_.At<const int32_t>(row);
  args.pair_weight = upload_.At<const float>(weight);

  PlaceHidden(&context_, pairs, down_.Any(true), &hidden_, &args);

  const auto launch = [&](bool late, const Tiles& tiles, const TilePlaces& places, bool ExpertsArgs::*plain,
                          void (*kernel)(const ExpertsArgs&, void*)) {
    args.tile_pairs = tiles.most_pairs;
    for (const int kind : {0, 1}) {
      args.*plain = kind == 1;
      args.tiles = upload_.At<const ExpertTile>(places[late][kind]);
      args.tile_count = static_cast<int32_t>(tiles.of[late][kind].size());
      if (args.tile_count > 0) kernel(args, Stream());
    }
  };
  const bool fused = Fused(pairs);
  if (!fused) {
    args.leaves = reinterpret_cast<float*>(leaves_.Get(pairs * cols * sizeof(float)));
    for (const ExpertTile& run : empty_) {
      context_.device().Zero(args.leaves + static_cast<size_t>(run.begin) * cols,
                             static_cast<size_t>(run.end - run.begin) * cols * sizeof(float));
    }
  }
  // While the late ones are on their way, the others compute.
  for (const bool late : {false, true}) {
    if (late && !late_) break;
    if (late) {
      context_.device().StreamAfterAside();
      places_->Awaited();
    }
    launch(late, up_, up_tiles, &ExpertsArgs::plain_up, HiddenKernel(context_));
    if (!fused) launch(late, down_, down_tiles, &ExpertsArgs::plain_down, context_.kernels().expert_leaves);
  }
  LeavesArgs leaves;
  leaves.pair_fault = args.pair_fault;
  leaves.slot_pair = upload_.At<const int32_t>(slot_pair);
  leaves.part_begin = upload_.At<const int32_t>(part_slot);
  leaves.adds = upload_.At<const PlannedAdd>(adds);
  leaves.part_adds = upload_.At<const AddRange>(part_adds);
  leaves.parts = static_cast<int32_t>(batch.parts.size());
  leaves.cols = batch.x.cols;
  leaves.out = out;
  leaves.faults = context_.Report(faults.subspan(0, batch.parts.size()));
  if (fused) {
    context_.kernels().expert_parts({args, upload_.At<const int32_t>(pair_expert), leaves}, Stream());
    return;
  }
  leaves.leaves = args.leaves;
  context_.kernels().add_leaves(leaves, Stream());
}

}  // namespace

std::unique_ptr<ReservingExpertOps> MakeCudaExpertOps(CudaContext* context, ExpertPlaces* places) {
  return std::make_unique<CudaExpertOps>(context, places);
}

}  // namespace moepool
