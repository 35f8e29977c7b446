// One layer of a micro-batch: see decoder.h.
#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/math.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "router/decoder.h"

namespace moepool {

AttentionShape Decoder::ShapeOf(const TrunkLayer& layer) const {
  AttentionShape shape;
  shape.heads = config_.heads;
  shape.kv_heads = config_.kv_heads;
  shape.head_dim = config_.head_dim;
  shape.rope = config_.rope.kind;
  shape.rope_dims = config_.rope.dims;
  shape.qk_norm = config_.qk_norm;
  shape.q_norm = layer.q_norm;
  shape.k_norm = layer.k_norm;
  shape.norm_eps = config_.norm_eps;
  shape.window = config_.sliding_window;
  return shape;
}

void Decoder::QueueSegment(const TrunkLayer& layer, uint64_t number, MicroBatch* batch,
                           absl::FunctionRef<void()> queue) {
  batch->attention.micro_batch = batch->index;
  const AttentionShape shape = ShapeOf(layer);
  Segment segment;
  segment.number = first_segment_ + number;
  segment.rows = batch->count();
  segment.first_row = batch->first_row;
  segment.shape = &shape;
  segment.batch = &batch->attention;
  segment.faults = batch->faults;
  backend_->Trunk().QueueSegment(segment, queue);
}

void Decoder::QueueTrunk(const TrunkLayer& layer, int index, const KvCache& kv, MicroBatch* batch) {
  QueueSegment(layer, 2 * static_cast<uint64_t>(index), batch, [&] {
    AttentionBlock(layer, index, kv, batch);
    GateLogits(layer, index, batch);
    if (!selects_on_device_ || counter_ != nullptr) return;  // DirectExperts() has each layer's in its place
    backend_->Experts().Select(config_, layer.gate != nullptr ? batch->gate_logits : nullptr, batch->count(),
                               DeviceChoice(*batch), batch->faults);
  });
}

SelectedExpert* Decoder::DeviceChoice(const MicroBatch& batch) const {
  return device_selected_ + int64_t{batch.first_row} * config_.experts_per_token;
}

void Decoder::QueueAll(const TrunkLayer& layer, int index, const KvCache& kv, const ExpertSet& set,
                       MicroBatch* batch) {
  direct_times_.emplace_back();
  if (on_gate_) {  // who watches waits
    QueueTrunk(layer, index, kv, batch);
    DirectExperts(layer, index, set, batch);
    return;
  }
  const absl::Time begin = absl::Now();
  QueueSegment(layer, 2 * static_cast<uint64_t>(index) + 1, batch, [&] {
    AttentionBlock(layer, index, kv, batch);
    GateLogits(layer, index, batch);
    DirectExperts(layer, index, set, batch);
  });
  // A replay has run nothing of this.
  if (direct_times_.back() == absl::ZeroDuration()) direct_times_.back() = absl::Now() - begin;
}

void Decoder::AttentionBlock(const TrunkLayer& layer, int index, const KvCache& kv, MicroBatch* batch) {
  const TraceSpan span("attention", {"layer", index}, {"rows", batch->count()},
                       {"micro_batch", batch->index});
  TrunkOps& ops = backend_->Trunk();
  const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
  const int64_t stride = q_dim + 2 * kv_dim;
  ops.Norm(layer.attn_norm, batch->x, &batch->normed, batch->faults);
  const Product qkv[] = {{layer.q.get(), layer.q_bias, nullptr, batch->qkv, stride},
                         {layer.k.get(), layer.k_bias, nullptr, batch->qkv + q_dim, stride},
                         {layer.v.get(), layer.v_bias, nullptr, batch->qkv + q_dim + kv_dim, stride}};
  ops.MatMuls(qkv, batch->normed);

  ops.Attention(ShapeOf(layer), batch->attention, kv.Layer(index), batch->qkv, batch->attended.f32);
  if (Info(layer.o->dtype()).quantized) ops.Quantize(&batch->attended, batch->faults);
  ops.MatMul(*layer.o, batch->attended, layer.o_bias, batch->x, batch->x, config_.hidden);
}

void Decoder::GateLogits(const TrunkLayer& layer, int index, MicroBatch* batch) {
  const TraceSpan span("gate product", {"layer", index}, {"rows", batch->count()});
  TrunkOps& ops = backend_->Trunk();
  ops.Norm(layer.ffn_norm, batch->x, &batch->normed, batch->faults);
  Product products[2];
  size_t count = 0;
  if (layer.gate != nullptr) {
    products[count++] = {layer.gate.get(), nullptr, nullptr, batch->gate_logits, config_.experts};
  }
  if (layer.shared_gate != nullptr) {
    products[count++] = {layer.shared_gate.get(), nullptr, nullptr, batch->shared_logits, 1};
  }
  if (count > 0) ops.MatMuls({products, count}, batch->normed);
}

Activations Decoder::WireForm(const TrunkLayer& layer, Activations rows) {
  if (layer.wire == WireDType::kInt8Block32) {
    rows.f32 = nullptr;
  } else {
    rows.q = nullptr;
    rows.scale = nullptr;
  }
  return rows;
}

Activations Decoder::FetchChoice(const TrunkLayer& layer, bool rows_too, MicroBatch* batch) {
  const size_t rows = batch->rows.size();
  const size_t experts = static_cast<size_t>(config_.experts);
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  const size_t elements = rows * static_cast<size_t>(config_.hidden);
  if (selects_on_device_) {
    fetched_ = {{DeviceChoice(*batch), batch->selected.size_bytes()}};
  } else {
    fetched_ = {{batch->gate_logits, layer.gate != nullptr ? rows * experts * sizeof(float) : 0}};
  }
  fetched_.push_back({batch->shared_logits, layer.shared_gate != nullptr ? rows * sizeof(float) : 0});
  Activations wire = WireForm(layer, batch->normed);
  const auto fetch = [&](const void* form, size_t bytes) {
    fetched_.push_back({form, rows_too && form != nullptr ? bytes : 0});
  };
  fetch(wire.q, elements);
  fetch(wire.scale, elements / 32 * sizeof(float));
  fetch(wire.f32, elements * sizeof(float));
  backend_->Trunk().Fetch(fetched_);

  const float* const shared = fetched_[1].f32();
  host_shared_logits_.assign(shared, shared + fetched_[1].bytes / sizeof(float));
  if (selects_on_device_) {
    std::copy_n(static_cast<const SelectedExpert*>(fetched_[0].host), batch->selected.size(),
                batch->selected.begin());
  }
  for (size_t t = 0; t < rows && !selects_on_device_; ++t) {
    if (batch->faults[t]) continue;
    const std::span<const float> logits(fetched_[0].f32() + t * experts, experts);
    if (!gate_policy_->Select(logits, batch->selected.subspan(t * k, k))) batch->faults[t] = 1;
  }
  const auto host = [&](size_t form) { return fetched_[form].bytes > 0 ? fetched_[form].host : nullptr; };
  wire.q = static_cast<int8_t*>(host(2));
  wire.scale = static_cast<float*>(host(3));
  wire.f32 = static_cast<float*>(host(4));
  return wire;
}

absl::Status Decoder::BeginExperts(const TrunkLayer& layer, int index, MicroBatch* batch,
                                   Dispatcher* dispatcher,
                                   const std::shared_ptr<const RoutingTable>& routes) {
  TraceSpan span("gate", {"layer", index}, {"rows", batch->count()}, {"micro_batch", batch->index});
  GatedRows rows;
  rows.x = FetchChoice(layer, Dispatcher::WantsHostRows(*routes, layer.wire, batch->count(), config_.hidden),
                       batch);
  if (on_gate_) on_gate_(index, batch->rows, batch->selected);
  span.End();
  rows.micro_batch = batch->index;
  rows.layer = index;
  rows.wire = layer.wire;
  rows.selected = batch->selected;
  rows.skip = batch->faults;
  rows.on_device = WireForm(layer, batch->normed);
  rows.ops = &backend_->Trunk();
  MOEPOOL_RETURN_IF_ERROR(dispatcher->Begin(rows, routes));
  batch->under_way = &layer;
  if (layer.shared != nullptr) WeighSharedExpert(layer, batch);
  return absl::OkStatus();
}

absl::Status Decoder::FinishExperts(MicroBatch* batch, Dispatcher* dispatcher) {
  if (batch->under_way == nullptr) return absl::OkStatus();
  const TrunkLayer& layer = *std::exchange(batch->under_way, nullptr);
  const float* const shared = SharedExpert(layer, batch);  // while the workers are at it
  return dispatcher->Finish(batch->index, &backend_->Trunk(), shared, batch->x, batch->faults);
}

void Decoder::WeighSharedExpert(const TrunkLayer& layer, MicroBatch* batch) {
  for (size_t row = 0; row < batch->rows.size(); ++row) {
    float weight = 1;
    if (layer.shared_gate != nullptr) {
      const float logit = host_shared_logits_[static_cast<size_t>(row)];
      if (!std::isfinite(logit)) batch->faults[row] = 1;
      weight = Sigmoid(logit);
    }
    batch->shared_weights[row] = weight;
  }
}

const float* Decoder::SharedExpert(const TrunkLayer& layer, MicroBatch* batch) {
  if (layer.shared == nullptr) return nullptr;
  const TraceSpan span("shared expert", {"rows", batch->count()}, {"micro_batch", batch->index});
  shared_parts_.clear();
  shared_entries_.clear();
  for (int32_t row = 0; row < batch->count(); ++row) {
    shared_entries_.push_back({0, batch->shared_weights[static_cast<size_t>(row)]});
    shared_parts_.push_back({row, row, row + 1});
  }
  const ExpertWeights* const expert = layer.shared.get();
  const ExpertBatch rows = {.x = batch->normed, .parts = shared_parts_, .entries = shared_entries_};
  backend_->Experts().Run({&expert, 1}, rows, batch->shared, batch->faults);
  return batch->shared;
}

bool Decoder::RunsDirectly(const RoutingTable& routes) const {
  if (!selects_on_device_ || routes.backend != backend_) return false;
  return std::all_of(weights_.layers.begin(), weights_.layers.end(), [](const TrunkLayer& layer) {
    return layer.shared == nullptr || layer.shared_set != nullptr;
  });
}

void Decoder::DirectExperts(const TrunkLayer& layer, int index, const ExpertSet& set, MicroBatch* batch) {
  ExpertOps& ops = backend_->Experts();
  const size_t count = batch->selected.size();
  SelectedExpert* const selected = device_selected_ + static_cast<size_t>(index) * count;
  TraceSpan gate("gate", {"layer", index}, {"rows", batch->count()});
  ops.Select(config_, layer.gate != nullptr ? batch->gate_logits : nullptr, batch->count(), selected,
             batch->faults);
  if (on_gate_) {
    Fetched chosen = {selected, count * sizeof(SelectedExpert)};
    ops.Fetch({&chosen, 1});
    on_gate_(index, batch->rows, {static_cast<const SelectedExpert*>(chosen.host), count});
  }
  gate.End();
  const TraceSpan span("experts", {"layer", index}, {"rows", batch->count()});
  const absl::Time begin = absl::Now();
  SelectedBatch rows;
  rows.x = batch->normed;
  rows.selected = selected;
  rows.experts_per_token = config_.experts_per_token;
  rows.shared = layer.shared_set.get();
  rows.shared_logits = layer.shared_gate != nullptr ? batch->shared_logits : nullptr;
  ops.RunSelected(set, rows, batch->x, batch->faults);
  direct_times_.back() = absl::Now() - begin;
}

}  // namespace moepool
