// See decoder.h.
#include "router/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/base/math.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace.h"

namespace moepool {
namespace {

// Rows of logits computed at a time: a step that scores a whole chunk would otherwise hold rows * vocab
// floats.
constexpr int kHeadRows = 32;

}  // namespace

Decoder::Decoder(Backend* backend, std::shared_ptr<const ModelSource> source, int max_rows)
    : backend_(backend),
      source_(std::move(source)),
      config_(source_->Config()),
      max_rows_(max_rows),
      rope_(config_.rope) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(Backend* backend,
                                                         std::shared_ptr<const ModelSource> source,
                                                         int max_rows, DecoderHooks hooks) {
  if (max_rows < 1)
    return absl::InvalidArgumentError(StrCat("rows of a step are ", max_rows, ", must be at least 1"));
  std::unique_ptr<Decoder> decoder(new Decoder(backend, std::move(source), max_rows));
  MOEPOOL_ASSIGN_OR_RETURN(decoder->gate_policy_, MakeGatePolicy(decoder->config_));
  decoder->selects_on_device_ = hooks.gate == nullptr && backend->Experts().CanSelect(decoder->config_);
  if (hooks.gate != nullptr) decoder->gate_policy_ = std::move(hooks.gate);
  decoder->on_gate_ = std::move(hooks.on_gate);
  MOEPOOL_ASSIGN_OR_RETURN(decoder->weights_, LoadTrunkWeights(backend, *decoder->source_));
  MOEPOOL_RETURN_IF_ERROR(decoder->AllocateActivations());
  const ModelConfig& config = decoder->config_;
  MOEPOOL_RETURN_IF_ERROR(backend->ReserveTrunk(config, {max_rows, config.experts_per_token, config.ffn}));
  if (config.shared_ffn > 0) {
    MOEPOOL_RETURN_IF_ERROR(backend->ReserveExperts(config.hidden, {max_rows, 1, config.shared_ffn}));
  }
  return decoder;
}

absl::StatusOr<Activations> Decoder::MakeActivations(int cols) {
  const size_t elements = static_cast<size_t>(max_rows_) * static_cast<size_t>(cols);
  Activations a;
  a.cols = cols;
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> f32, backend_->Allocate(elements * sizeof(float)));
  a.f32 = f32->f32();
  buffers_.push_back(std::move(f32));
  if (cols % 32 != 0) return a;  // no quantised matrix has such columns
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> q, backend_->Allocate(elements));
  a.q = reinterpret_cast<int8_t*>(q->data());
  buffers_.push_back(std::move(q));
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> scale, backend_->Allocate(elements / 32 * sizeof(float)));
  a.scale = scale->f32();
  buffers_.push_back(std::move(scale));
  return a;
}

absl::Status Decoder::AllocateActivations() {
  const size_t rows = static_cast<size_t>(max_rows_);
  const auto floats = [this](size_t count, float** pointer) -> absl::Status {
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_->Allocate(count * sizeof(float)));
    *pointer = buffer->f32();
    buffers_.push_back(std::move(buffer));
    return absl::OkStatus();
  };
  const size_t q_dim = static_cast<size_t>(config_.heads) * static_cast<size_t>(config_.head_dim);
  const size_t kv_dim = static_cast<size_t>(config_.kv_heads) * static_cast<size_t>(config_.head_dim);
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.hidden), &x_));
  MOEPOOL_RETURN_IF_ERROR(floats(rows * (q_dim + 2 * kv_dim), &qkv_));
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.experts), &gate_logits_));
  MOEPOOL_RETURN_IF_ERROR(floats(kHeadRows * static_cast<size_t>(config_.vocab_size), &logits_));
  float* ids = nullptr;
  MOEPOOL_RETURN_IF_ERROR(floats(kHeadRows, &ids));
  ids_ = reinterpret_cast<int32_t*>(ids);
  cos_.resize(rows * rope_.pairs());
  sin_.resize(rows * rope_.pairs());
  MOEPOOL_ASSIGN_OR_RETURN(normed_, MakeActivations(config_.hidden));
  MOEPOOL_ASSIGN_OR_RETURN(attended_, MakeActivations(static_cast<int>(q_dim)));
  selected_.resize(rows * static_cast<size_t>(config_.experts_per_token));
  if (selects_on_device_) {
    const size_t bytes = static_cast<size_t>(config_.layers) * selected_.size() * sizeof(SelectedExpert);
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_->Allocate(bytes));
    device_selected_ = reinterpret_cast<SelectedExpert*>(buffer->data());
    buffers_.push_back(std::move(buffer));
  }
  if (config_.shared_ffn == 0) return absl::OkStatus();
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.hidden), &shared_));
  return floats(rows, &shared_logits_);
}

void Decoder::FillRope(std::span<const StepRow> rows) {
  for (size_t t = 0; t < rows.size(); ++t) {
    rope_.Fill(rows[t].position, rows[t].rope, &cos_[t * rope_.pairs()], &sin_[t * rope_.pairs()]);
  }
}

void Decoder::AttentionBlock(const TrunkLayer& layer, int index, const KvCache& kv, RowFaults faults) {
  const TraceSpan span("attention", {"layer", index}, {"rows", rows_});
  TrunkOps& ops = backend_->Trunk();
  const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
  const int64_t stride = q_dim + 2 * kv_dim;
  ops.Norm(layer.attn_norm, x_, &normed_, faults);
  const Product qkv[] = {{layer.q.get(), layer.q_bias, nullptr, qkv_, stride},
                         {layer.k.get(), layer.k_bias, nullptr, qkv_ + q_dim, stride},
                         {layer.v.get(), layer.v_bias, nullptr, qkv_ + q_dim + kv_dim, stride}};
  ops.MatMuls(qkv, normed_);

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
  AttentionBatch batch;
  batch.rows = rows_;
  batch.position = positions_.data();
  batch.block_table = tables_.data();
  batch.cos = cos_.data();
  batch.sin = sin_.data();
  batch.step = step_;
  ops.Attention(shape, batch, kv.Layer(index), qkv_, attended_.f32);
  if (Info(layer.o->dtype()).quantized) ops.Quantize(&attended_, faults);
  ops.MatMul(*layer.o, attended_, layer.o_bias, x_, x_, config_.hidden);
}

const float* Decoder::SharedExpert(const TrunkLayer& layer, const float* logits, RowFaults faults) {
  if (layer.shared == nullptr) return nullptr;
  const TraceSpan span("shared expert", {"rows", rows_});
  shared_parts_.clear();
  shared_entries_.clear();
  for (int32_t row = 0; row < rows_; ++row) {
    float weight = 1;
    if (logits != nullptr) {
      if (!std::isfinite(logits[row])) faults[row] = 1;
      weight = Sigmoid(logits[row]);
    }
    shared_entries_.push_back({0, weight});
    shared_parts_.push_back({row, row, row + 1});
  }
  const ExpertWeights* const expert = layer.shared.get();
  const ExpertBatch batch = {.x = normed_, .parts = shared_parts_, .entries = shared_entries_};
  backend_->Experts().Run({&expert, 1}, batch, shared_, faults);
  return shared_;
}

void Decoder::GateLogits(const TrunkLayer& layer, RowFaults faults) {
  TrunkOps& ops = backend_->Trunk();
  ops.Norm(layer.ffn_norm, x_, &normed_, faults);
  Product products[2];
  size_t count = 0;
  if (layer.gate != nullptr) {
    products[count++] = {layer.gate.get(), nullptr, nullptr, gate_logits_, config_.experts};
  }
  if (layer.shared_gate != nullptr) {
    products[count++] = {layer.shared_gate.get(), nullptr, nullptr, shared_logits_, 1};
  }
  if (count > 0) ops.MatMuls({products, count}, normed_);
}

Decoder::GateOutput Decoder::FetchGate(const TrunkLayer& layer) {
  const size_t rows = static_cast<size_t>(rows_);
  const bool quantized = layer.wire == WireDType::kInt8Block32;
  const size_t elements = rows * static_cast<size_t>(config_.hidden);
  fetched_ = {{gate_logits_, rows * static_cast<size_t>(config_.experts) * sizeof(float)},
              {layer.shared_gate != nullptr ? shared_logits_ : nullptr, rows * sizeof(float)}};
  if (layer.gate == nullptr) fetched_[0].bytes = 0;
  if (layer.shared_gate == nullptr) fetched_[1].bytes = 0;
  if (quantized) {
    fetched_.push_back({normed_.q, elements});
    fetched_.push_back({normed_.scale, elements / 32 * sizeof(float)});
  } else {
    fetched_.push_back({normed_.f32, elements * sizeof(float)});
  }
  backend_->Trunk().Fetch(fetched_);
  GateOutput out;
  out.logits = fetched_[0].f32();
  if (layer.shared_gate != nullptr) out.shared_logits = fetched_[1].f32();
  out.wire.rows = rows_;
  out.wire.cols = config_.hidden;
  if (quantized) {
    out.wire.q = static_cast<int8_t*>(fetched_[2].host);
    out.wire.scale = fetched_[3].f32();
  } else {
    out.wire.f32 = fetched_[2].f32();
  }
  return out;
}

absl::Status Decoder::ExpertBlock(const TrunkLayer& layer, int index, std::span<const StepRow> rows,
                                  Dispatcher* dispatcher, const std::shared_ptr<const RoutingTable>& routes,
                                  RowFaults faults) {
  const size_t experts = static_cast<size_t>(config_.experts);
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  TraceSpan span("gate", {"layer", index}, {"rows", rows_});
  GateLogits(layer, faults);
  const GateOutput gate = FetchGate(layer);
  for (size_t t = 0; t < rows.size(); ++t) {
    if (faults[t]) continue;
    if (!gate_policy_->Select({gate.logits + t * experts, experts}, {&selected_[t * k], k})) faults[t] = 1;
  }
  const std::span<const SelectedExpert> selected(selected_.data(), rows.size() * k);
  if (on_gate_) on_gate_(index, rows, selected);
  span.End();
  MOEPOOL_RETURN_IF_ERROR(dispatcher->Begin(index, layer.wire, gate.wire, selected, faults, routes));
  const float* const shared = SharedExpert(layer, gate.shared_logits, faults);  // while the workers are at it
  return dispatcher->Finish(&backend_->Trunk(), shared, x_, faults);
}

bool Decoder::RunsDirectly(const RoutingTable& routes) const {
  if (!selects_on_device_ || routes.backend != backend_) return false;
  return std::all_of(weights_.layers.begin(), weights_.layers.end(), [](const TrunkLayer& layer) {
    return layer.shared == nullptr || layer.shared_set != nullptr;
  });
}

SelectedExpert* Decoder::Selected(int layer) const {
  return device_selected_ + int64_t{layer} * rows_ * config_.experts_per_token;
}

void Decoder::DirectExperts(const TrunkLayer& layer, int index, std::span<const StepRow> rows,
                            const ExpertSet& set, RowFaults faults) {
  ExpertOps& ops = backend_->Experts();
  SelectedExpert* const selected = Selected(index);
  TraceSpan gate("gate", {"layer", index}, {"rows", rows_});
  GateLogits(layer, faults);
  ops.Select(config_, layer.gate != nullptr ? gate_logits_ : nullptr, rows_, selected, faults);
  if (on_gate_) {  // who watches waits
    const size_t count = rows.size() * static_cast<size_t>(config_.experts_per_token);
    Fetched chosen = {selected, count * sizeof(SelectedExpert)};
    ops.Fetch({&chosen, 1});
    on_gate_(index, rows, {static_cast<const SelectedExpert*>(chosen.host), count});
  }
  gate.End();
  const TraceSpan span("experts", {"layer", index}, {"rows", rows_});
  const absl::Time begin = absl::Now();
  SelectedBatch batch;
  batch.x = normed_;
  batch.selected = selected;
  batch.experts_per_token = config_.experts_per_token;
  batch.shared = layer.shared_set.get();
  batch.shared_logits = layer.shared_gate != nullptr ? shared_logits_ : nullptr;
  ops.RunSelected(set, batch, x_, faults);
  direct_times_.push_back(absl::Now() - begin);
}

void Decoder::FetchAndCount(std::span<Fetched> wanted) {
  fetched_.assign(wanted.begin(), wanted.end());
  const size_t each = static_cast<size_t>(rows_) * static_cast<size_t>(config_.experts_per_token);
  const size_t layers = counter_ != nullptr ? direct_times_.size() : 0;
  fetched_.push_back({device_selected_, layers * each * sizeof(SelectedExpert)});
  backend_->Trunk().Fetch(fetched_);
  std::copy_n(fetched_.begin(), wanted.size(), wanted.begin());
  const auto* const selected = static_cast<const SelectedExpert*>(fetched_.back().host);
  for (size_t layer = 0; layer < layers; ++layer) {
    counter_->CountDirect(static_cast<int>(layer), rows_, {selected + layer * each, each}, *direct_routes_,
                          direct_times_[layer]);
  }
  counter_ = nullptr;
}

void Decoder::Head(std::span<const StepRow> rows, RowFaults faults, const IdSink& picked,
                   const LogitsSink& sink) {
  TrunkOps& ops = backend_->Trunk();
  const size_t hidden = static_cast<size_t>(config_.hidden);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  head_rows_.clear();
  for (size_t t = 0; t < rows.size(); ++t) {
    if (rows[t].wants_logits && !faults[t]) head_rows_.push_back(static_cast<int32_t>(t));
  }
  const TraceSpan span("head", {"rows", static_cast<int64_t>(head_rows_.size())});
  const auto logits_of = [&](size_t i) { return Fetched{logits_ + i * vocab, vocab * sizeof(float)}; };
  ops.Gather(head_rows_, config_.hidden, x_);  // which nothing else reads after this
  for (size_t begin = 0; begin < head_rows_.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, head_rows_.size() - begin);
    head_faults_.assign(count, 0);
    normed_.rows = static_cast<int>(count);
    ops.Norm(weights_.output_norm, x_ + begin * hidden, &normed_, head_faults_);
    ops.MatMul(*weights_.head, normed_, weights_.head_bias, nullptr, logits_, config_.vocab_size);
    picks_.clear();
    wanted_.assign(1, {});
    for (size_t i = 0; i < count; ++i) {
      const std::optional<PickParams>& pick = rows[static_cast<size_t>(head_rows_[begin + i])].pick;
      if (pick.has_value()) {
        picks_.push_back({static_cast<int32_t>(i), *pick});
      } else {
        wanted_.push_back(logits_of(i));
      }
    }
    if (!picks_.empty()) {
      const TraceSpan sample("sample", {"rows", static_cast<int64_t>(picks_.size())});
      ops.Pick(picks_, config_.vocab_size, logits_, ids_);
    }
    wanted_[0] = {ids_, picks_.size() * sizeof(int32_t)};
    FetchAndCount(wanted_);
    const auto* const ids = static_cast<const int32_t*>(wanted_[0].host);
    size_t next_id = 0;
    size_t next_logits = 1;
    no_id_.clear();
    for (size_t i = 0; i < count; ++i) {
      const int32_t row = head_rows_[begin + i];
      if (head_faults_[i]) faults[row] = 1;
      const bool faulty = faults[row] != 0;  // those of the layers may have come with the logits
      if (!rows[static_cast<size_t>(row)].pick.has_value()) {
        const Fetched& logits = wanted_[next_logits++];
        if (!faulty) sink(row, {logits.f32(), vocab});
        continue;
      }
      const int32_t id = ids[next_id++];
      if (faulty) continue;
      if (id >= 0) {
        picked(row, id);
      } else {
        no_id_.push_back(i);
      }
    }
    for (const size_t i : no_id_) {
      Fetched unusable = logits_of(i);
      ops.Fetch({&unusable, 1});
      sink(head_rows_[begin + i], {unusable.f32(), vocab});
    }
  }
}

absl::Status Decoder::Forward(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                              const std::shared_ptr<const RoutingTable>& routes, RowFaults faults,
                              const std::function<bool()>& vain, const IdSink& picked,
                              const LogitsSink& sink) {
  MOEPOOL_CHECK(!rows.empty() && rows.size() <= static_cast<size_t>(max_rows_));
  MOEPOOL_CHECK(faults.size() == rows.size());
  ++step_;
  rows_ = static_cast<int>(rows.size());
  normed_.rows = rows_;
  attended_.rows = rows_;
  tokens_.clear();
  positions_.clear();
  tables_.clear();
  for (const StepRow& row : rows) {
    tokens_.push_back(row.token);
    positions_.push_back(row.position);
    tables_.push_back(row.block_table);
  }
  backend_->Trunk().Embed(weights_.embedding, tokens_, x_);
  FillRope(rows);
  const bool direct = RunsDirectly(*routes);
  counter_ = direct ? dispatcher : nullptr;
  direct_routes_ = routes.get();
  direct_times_.clear();
  const absl::Status status = Layers(rows, kv, dispatcher, routes, faults, vain);
  // Faults are the caller's once this returns. After layers that ran here they may come with the logits.
  if (!direct || !status.ok()) FetchAndCount({});
  MOEPOOL_RETURN_IF_ERROR(status);
  Head(rows, faults, picked, sink);
  if (counter_ != nullptr) FetchAndCount({});  // no row wanted logits
  return absl::OkStatus();
}

absl::Status Decoder::Layers(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                             const std::shared_ptr<const RoutingTable>& routes, RowFaults faults,
                             const std::function<bool()>& vain) {
  for (int i = 0; i < config_.layers; ++i) {
    if (vain()) return absl::CancelledError("nobody wants the step any more");
    const TrunkLayer& layer = weights_.layers[static_cast<size_t>(i)];
    AttentionBlock(layer, i, kv, faults);
    if (counter_ != nullptr) {
      DirectExperts(layer, i, rows, *routes->sets[static_cast<size_t>(i)], faults);
      continue;
    }
    MOEPOOL_RETURN_IF_ERROR(ExpertBlock(layer, i, rows, dispatcher, routes, faults));
  }
  return absl::OkStatus();
}

}  // namespace moepool
