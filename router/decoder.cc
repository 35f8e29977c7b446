// See decoder.h.
#include "router/decoder.h"

#include <atomic>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

// Of steps and segments of all decoders, which may share a backend, so that none has that of another.
std::atomic<uint64_t> next_number = 1;

uint64_t TakeNumbers(uint64_t count) { return next_number.fetch_add(count, std::memory_order_relaxed); }

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
  decoder->first_rows_ = std::move(hooks.first_rows);
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
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.hidden), &all_.x));
  MOEPOOL_RETURN_IF_ERROR(floats(rows * (q_dim + 2 * kv_dim), &all_.qkv));
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.experts), &all_.gate_logits));
  MOEPOOL_RETURN_IF_ERROR(floats(kHeadRows * static_cast<size_t>(config_.vocab_size), &logits_));
  float* ids = nullptr;
  MOEPOOL_RETURN_IF_ERROR(floats(kHeadRows, &ids));
  ids_ = reinterpret_cast<int32_t*>(ids);
  cos_.resize(rows * rope_.pairs());
  sin_.resize(rows * rope_.pairs());
  MOEPOOL_ASSIGN_OR_RETURN(all_.normed, MakeActivations(config_.hidden));
  MOEPOOL_ASSIGN_OR_RETURN(all_.attended, MakeActivations(static_cast<int>(q_dim)));
  shared_weights_.resize(rows);
  selected_.resize(rows * static_cast<size_t>(config_.experts_per_token));
  if (selects_on_device_) {
    const size_t bytes = static_cast<size_t>(config_.layers) * selected_.size() * sizeof(SelectedExpert);
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer, backend_->Allocate(bytes));
    device_selected_ = reinterpret_cast<SelectedExpert*>(buffer->data());
    buffers_.push_back(std::move(buffer));
  }
  if (config_.shared_ffn == 0) return absl::OkStatus();
  MOEPOOL_RETURN_IF_ERROR(floats(rows * static_cast<size_t>(config_.hidden), &all_.shared));
  return floats(rows, &all_.shared_logits);
}

absl::Status Decoder::Forward(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                              const std::shared_ptr<const RoutingTable>& routes, int micro_batches,
                              RowFaults faults, const std::function<bool()>& vain, const IdSink& picked,
                              const LogitsSink& sink) {
  MOEPOOL_CHECK(!rows.empty() && rows.size() <= static_cast<size_t>(max_rows_));
  MOEPOOL_CHECK(faults.size() == rows.size());
  Prepare(rows);
  const bool direct = RunsDirectly(*routes);
  counter_ = direct ? dispatcher : nullptr;
  direct_routes_ = routes.get();
  direct_times_.clear();
  NumberSegments(kv, routes, direct);
  Split(rows, faults, direct ? 1 : micro_batches);
  const DispatchTotals& totals = dispatcher->totals();
  const double waited = totals.wait_seconds;
  const double computed = totals.computed_seconds;
  const absl::Time begin = absl::Now();
  const absl::Status status = Layers(kv, dispatcher, routes, vain);
  layers_time_ = {.rows = static_cast<int>(rows.size()),
                  .micro_batches = direct ? 0 : static_cast<int>(batches_.size()),
                  .whole = absl::Now() - begin,
                  .waited = absl::Seconds(totals.wait_seconds - waited),
                  .computed = absl::Seconds(totals.computed_seconds - computed)};
  // Faults are the caller's once this returns. After layers that ran here they may come with the logits.
  if (!direct || !status.ok()) {
    FetchAndCount({});
    dispatcher->EndStep();
  }
  MOEPOOL_RETURN_IF_ERROR(status);
  Head(rows, faults, picked, sink);
  if (counter_ != nullptr) FetchAndCount({});  // no row wanted logits
  return absl::OkStatus();
}

void Decoder::Prepare(std::span<const StepRow> rows) {
  tokens_.clear();
  positions_.clear();
  tables_.clear();
  for (const StepRow& row : rows) {
    tokens_.push_back(row.token);
    positions_.push_back(row.position);
    tables_.push_back(row.block_table);
  }
  backend_->Trunk().Embed(weights_.embedding, tokens_, all_.x);
  for (size_t t = 0; t < rows.size(); ++t) {
    rope_.Fill(rows[t].position, rows[t].rope, &cos_[t * rope_.pairs()], &sin_[t * rope_.pairs()]);
  }
}

void Decoder::Split(std::span<const StepRow> rows, RowFaults faults, int micro_batches) {
  batches_.clear();
  const int count = static_cast<int>(rows.size());
  size_t first = rows.size();
  if (micro_batches > 1 && count >= 2 * kMicroBatchAlignment) {
    const int half = (count / 2 + kMicroBatchAlignment / 2) / kMicroBatchAlignment * kMicroBatchAlignment;
    first = static_cast<size_t>(first_rows_ ? first_rows_(count) : half);
    MOEPOOL_CHECK(first > 0 && first < rows.size() && first % kMicroBatchAlignment == 0);
  }
  batches_.push_back(Part(0, rows.first(first), faults.first(first)));
  if (first == rows.size()) return;
  batches_.push_back(Part(static_cast<int>(first), rows.subspan(first), faults.subspan(first)));
  batches_[1].index = 1;
}

MicroBatch Decoder::Part(int first, std::span<const StepRow> rows, RowFaults faults) {
  const size_t offset = static_cast<size_t>(first);
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  const auto activations = [&](const Activations& all) {
    const int64_t elements = int64_t{first} * all.cols;
    Activations part = all;
    part.rows = static_cast<int>(rows.size());
    part.f32 += elements;
    if (part.q != nullptr) part.q += elements;
    if (part.scale != nullptr) part.scale += elements / 32;
    return part;
  };
  const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
  MicroBatch part;
  part.first_row = first;
  part.rows = rows;
  part.faults = faults;
  part.x = all_.x + int64_t{first} * config_.hidden;
  part.normed = activations(all_.normed);
  part.qkv = all_.qkv + first * (q_dim + 2 * kv_dim);
  part.attended = activations(all_.attended);
  part.gate_logits = all_.gate_logits + int64_t{first} * config_.experts;
  if (all_.shared != nullptr) {
    part.shared = all_.shared + int64_t{first} * config_.hidden;
    part.shared_logits = all_.shared_logits + first;
  }
  part.attention.rows = part.count();
  part.attention.position = &positions_[offset];
  part.attention.block_table = &tables_[offset];
  part.attention.cos = cos_.data() + offset * rope_.pairs();
  part.attention.sin = sin_.data() + offset * rope_.pairs();
  part.attention.step = TakeNumbers(1);
  part.shared_weights = std::span(shared_weights_).subspan(offset, rows.size());
  part.selected = std::span(selected_).subspan(offset * k, rows.size() * k);
  return part;
}

void Decoder::NumberSegments(const KvCache& kv, const std::shared_ptr<const RoutingTable>& routes,
                             bool direct) {
  const std::shared_ptr<const RoutingTable> own = direct ? routes : nullptr;
  bool same = first_segment_ != 0 && segments_direct_ == direct && segments_routes_.lock() == own;
  segments_kv_.resize(static_cast<size_t>(config_.layers));
  for (int i = 0; i < config_.layers; ++i) {
    KvLayer& before = segments_kv_[static_cast<size_t>(i)];
    same = same && before == kv.Layer(i);
    before = kv.Layer(i);
  }
  if (same) return;
  segments_direct_ = direct;
  segments_routes_ = own;
  first_segment_ = TakeNumbers(2 * static_cast<uint64_t>(config_.layers));
}

absl::Status Decoder::Layers(const KvCache& kv, Dispatcher* dispatcher,
                             const std::shared_ptr<const RoutingTable>& routes,
                             const std::function<bool()>& vain) {
  const auto finish = [&] {
    absl::Status status;
    for (MicroBatch& batch : batches_) {
      if (status.ok()) status = FinishExperts(&batch, dispatcher);
    }
    return status;
  };
  for (int i = 0; i < config_.layers; ++i) {
    if (vain()) {
      MOEPOOL_RETURN_IF_ERROR(finish());
      return absl::CancelledError("nobody wants the step any more");
    }
    const TrunkLayer& layer = weights_.layers[static_cast<size_t>(i)];
    for (MicroBatch& batch : batches_) {
      MOEPOOL_RETURN_IF_ERROR(FinishExperts(&batch, dispatcher));  // of the layer before
      // Rows of the other one that come before these in their sequence have their K and V of this layer in
      // the cache by now.
      if (counter_ != nullptr) {
        QueueAll(layer, i, kv, *routes->sets[static_cast<size_t>(i)], &batch);
        continue;
      }
      QueueTrunk(layer, i, kv, &batch);
      MOEPOOL_RETURN_IF_ERROR(BeginExperts(layer, i, &batch, dispatcher, routes));
    }
    if (batches_.size() == 1) MOEPOOL_RETURN_IF_ERROR(finish());  // there is nothing to do meanwhile
  }
  return finish();
}

}  // namespace moepool
