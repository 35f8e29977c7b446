// See decoder.h.
#include "router/decoder.h"

#include <algorithm>
#include <cstring>

#include "common/base/math.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

// Rows of logits computed at a time: a step that scores a whole chunk would otherwise hold rows * vocab
// floats.
constexpr int kHeadRows = 32;

}  // namespace

Decoder::Decoder(Backend* backend, std::shared_ptr<const ModelSource> source, int max_rows)
    : backend_(backend), source_(std::move(source)), config_(source_->Config()), max_rows_(max_rows) {}

absl::StatusOr<std::unique_ptr<Decoder>> Decoder::Create(Backend* backend,
                                                         std::shared_ptr<const ModelSource> source,
                                                         int max_rows) {
  if (max_rows < 1)
    return absl::InvalidArgumentError(StrCat("rows of a step are ", max_rows, ", must be at least 1"));
  std::unique_ptr<Decoder> decoder(new Decoder(backend, std::move(source), max_rows));
  MOEPOOL_RETURN_IF_ERROR(decoder->Load());
  MOEPOOL_RETURN_IF_ERROR(decoder->AllocateActivations());
  return decoder;
}

absl::StatusOr<std::unique_ptr<Matrix>> Decoder::LoadMatrix(std::string_view name, int64_t rows,
                                                            int64_t cols) {
  const TensorInfo* info = source_->Find(name);
  if (info == nullptr) return absl::NotFoundError(StrCat("tensor ", name, " is missing"));
  if (info->dims[0] != cols || info->dims[1] != rows) {
    return absl::InvalidArgumentError(StrCat("tensor ", name, " is [", info->dims[0], ", ", info->dims[1],
                                             "], expected [", cols, ", ", rows, "]"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const TensorBytes bytes, source_->Range(name, 0, info->bytes));
  MatrixView view;
  view.dtype = info->dtype;
  view.rows = rows;
  view.cols = cols;
  view.data = bytes.bytes.data();
  view.row_stride_bytes = RowBytes(info->dtype, cols);
  absl::StatusOr<std::unique_ptr<Matrix>> matrix = backend_->Load(view);
  if (!matrix.ok()) {
    return absl::Status(matrix.status().code(),
                        StrCat("tensor ", name, ": ", ToStd(matrix.status().message())));
  }
  return matrix;
}

absl::StatusOr<const float*> Decoder::LoadVector(std::string_view name, int64_t size, bool required) {
  const TensorInfo* info = source_->Find(name);
  if (info == nullptr && !required) return nullptr;
  if (info == nullptr) return absl::NotFoundError(StrCat("tensor ", name, " is missing"));
  if (info->dims[0] != size || info->dims[1] != 1) {
    return absl::InvalidArgumentError(
        StrCat("tensor ", name, " is [", info->dims[0], ", ", info->dims[1], "], expected [", size, "]"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const TensorBytes bytes, source_->Range(name, 0, info->bytes));
  MatrixView view;
  view.dtype = info->dtype;
  view.rows = 1;
  view.cols = size;
  view.data = bytes.bytes.data();
  view.row_stride_bytes = static_cast<int64_t>(info->bytes);
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                           backend_->Allocate(static_cast<size_t>(size) * sizeof(float)));
  DequantizeRow(view, 0, buffer->f32());
  buffers_.push_back(std::move(buffer));
  return buffers_.back()->f32();
}

absl::StatusOr<WireDType> Decoder::ExpertWire(int layer) const {
  const std::string suffix = config_.dense() ? ".weight" : "_exps.weight";
  const std::string gate_name = StrCat("blk.", layer, ".ffn_gate", suffix);
  const std::string up_name = StrCat("blk.", layer, ".ffn_up", suffix);
  const TensorInfo* gate = source_->Find(gate_name);
  const TensorInfo* up = source_->Find(up_name);
  if (gate == nullptr) return absl::NotFoundError(StrCat("tensor ", gate_name, " is missing"));
  if (up == nullptr) return absl::NotFoundError(StrCat("tensor ", up_name, " is missing"));
  const bool quantized = Info(gate->dtype).quantized;
  if (quantized != Info(up->dtype).quantized) {
    return absl::UnimplementedError(StrCat("tensor ", gate_name, " is of type ", Info(gate->dtype).name,
                                           " and ", up_name, " of ", Info(up->dtype).name,
                                           ": one row cannot be sent in a form that both read"));
  }
  return quantized ? WireDType::kInt8Block32 : WireDType::kF32;
}

absl::Status Decoder::Load() {
  MOEPOOL_ASSIGN_OR_RETURN(gate_policy_, MakeGatePolicy(config_));
  const int64_t hidden = config_.hidden;
  const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;

  const TensorInfo* embedding = source_->Find("token_embd.weight");
  if (embedding == nullptr) return absl::NotFoundError("tensor token_embd.weight is missing");
  MOEPOOL_ASSIGN_OR_RETURN(embedding_bytes_, source_->Range("token_embd.weight", 0, embedding->bytes));
  embedding_.dtype = embedding->dtype;
  embedding_.rows = config_.vocab_size;
  embedding_.cols = hidden;
  embedding_.data = embedding_bytes_.bytes.data();
  embedding_.row_stride_bytes = RowBytes(embedding->dtype, hidden);

  MOEPOOL_ASSIGN_OR_RETURN(output_norm_, LoadVector("output_norm.weight", hidden, true));
  MOEPOOL_ASSIGN_OR_RETURN(head_, LoadMatrix(config_.tied_embeddings ? "token_embd.weight" : "output.weight",
                                             config_.vocab_size, hidden));
  layers_.resize(static_cast<size_t>(config_.layers));
  for (int i = 0; i < config_.layers; ++i) {
    Layer& layer = layers_[static_cast<size_t>(i)];
    const auto name = [i](std::string_view tensor) { return StrCat("blk.", i, ".", tensor); };
    MOEPOOL_ASSIGN_OR_RETURN(layer.attn_norm, LoadVector(name("attn_norm.weight"), hidden, true));
    MOEPOOL_ASSIGN_OR_RETURN(layer.ffn_norm, LoadVector(name("ffn_norm.weight"), hidden, true));
    MOEPOOL_ASSIGN_OR_RETURN(layer.q, LoadMatrix(name("attn_q.weight"), q_dim, hidden));
    MOEPOOL_ASSIGN_OR_RETURN(layer.k, LoadMatrix(name("attn_k.weight"), kv_dim, hidden));
    MOEPOOL_ASSIGN_OR_RETURN(layer.v, LoadMatrix(name("attn_v.weight"), kv_dim, hidden));
    MOEPOOL_ASSIGN_OR_RETURN(layer.o, LoadMatrix(name("attn_output.weight"), hidden, q_dim));
    MOEPOOL_ASSIGN_OR_RETURN(layer.q_bias, LoadVector(name("attn_q.bias"), q_dim, false));
    MOEPOOL_ASSIGN_OR_RETURN(layer.k_bias, LoadVector(name("attn_k.bias"), kv_dim, false));
    MOEPOOL_ASSIGN_OR_RETURN(layer.v_bias, LoadVector(name("attn_v.bias"), kv_dim, false));
    if (config_.qk_norm != QkNorm::kNone) {
      MOEPOOL_ASSIGN_OR_RETURN(layer.q_norm, LoadVector(name("attn_q_norm.weight"), config_.head_dim, true));
      MOEPOOL_ASSIGN_OR_RETURN(layer.k_norm, LoadVector(name("attn_k_norm.weight"), config_.head_dim, true));
    }
    if (!config_.dense()) {
      MOEPOOL_ASSIGN_OR_RETURN(layer.gate, LoadMatrix(name("ffn_gate_inp.weight"), config_.experts, hidden));
    }
    MOEPOOL_ASSIGN_OR_RETURN(layer.wire, ExpertWire(i));
  }

  const RopeConfig& rope = config_.rope;
  rope_frequency_.resize(static_cast<size_t>(rope.dims / 2));
  for (size_t i = 0; i < rope_frequency_.size(); ++i) {
    double frequency = Pow(rope.base, -2.0 * static_cast<double>(i) / rope.dims) / rope.linear_factor;
    if (!rope.freq_factors.empty()) frequency /= static_cast<double>(rope.freq_factors[i]);
    rope_frequency_[i] = frequency;
  }
  return absl::OkStatus();
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
  MOEPOOL_RETURN_IF_ERROR(floats(rows * rope_frequency_.size(), &cos_));
  MOEPOOL_RETURN_IF_ERROR(floats(rows * rope_frequency_.size(), &sin_));
  MOEPOOL_ASSIGN_OR_RETURN(normed_, MakeActivations(config_.hidden));
  MOEPOOL_ASSIGN_OR_RETURN(attended_, MakeActivations(static_cast<int>(q_dim)));
  selected_.resize(rows * static_cast<size_t>(config_.experts_per_token));
  return absl::OkStatus();
}

void Decoder::FillRope(std::span<const StepRow> rows) {
  const size_t half = rope_frequency_.size();
  for (size_t t = 0; t < rows.size(); ++t) {
    for (size_t i = 0; i < half; ++i) {
      double sine = 0;
      double cosine = 0;
      SinCos(rows[t].position * rope_frequency_[i], &sine, &cosine);
      sin_[t * half + i] = static_cast<float>(sine);
      cos_[t * half + i] = static_cast<float>(cosine);
    }
  }
}

void Decoder::AttentionBlock(const Layer& layer, int index, const KvCache& kv, RowFaults faults) {
  TrunkOps& ops = backend_->Trunk();
  const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
  const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
  const int64_t stride = q_dim + 2 * kv_dim;
  ops.Norm({config_.norm, layer.attn_norm, nullptr, config_.norm_eps}, x_, &normed_, faults);
  ops.MatMul(*layer.q, normed_, layer.q_bias, nullptr, qkv_, stride);
  ops.MatMul(*layer.k, normed_, layer.k_bias, nullptr, qkv_ + q_dim, stride);
  ops.MatMul(*layer.v, normed_, layer.v_bias, nullptr, qkv_ + q_dim + kv_dim, stride);

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
  batch.cos = cos_;
  batch.sin = sin_;
  ops.Attention(shape, batch, kv.Layer(index), qkv_, attended_.f32);
  if (Info(layer.o->dtype()).quantized) ops.Quantize(&attended_, faults);
  ops.MatMul(*layer.o, attended_, nullptr, x_, x_, config_.hidden);
}

absl::Status Decoder::ExpertBlock(const Layer& layer, int index, Dispatcher* dispatcher,
                                  const std::shared_ptr<const RoutingTable>& routes, RowFaults faults) {
  TrunkOps& ops = backend_->Trunk();
  const size_t experts = static_cast<size_t>(config_.experts);
  const size_t k = static_cast<size_t>(config_.experts_per_token);
  ops.Norm({config_.norm, layer.ffn_norm, nullptr, config_.norm_eps}, x_, &normed_, faults);
  if (layer.gate != nullptr)
    ops.MatMul(*layer.gate, normed_, nullptr, nullptr, gate_logits_, config_.experts);
  for (size_t t = 0; t < static_cast<size_t>(rows_); ++t) {
    if (faults[t]) continue;
    if (!gate_policy_->Select({gate_logits_ + t * experts, experts}, {&selected_[t * k], k})) faults[t] = 1;
  }
  MOEPOOL_RETURN_IF_ERROR(dispatcher->Begin(
      index, layer.wire, normed_, {selected_.data(), static_cast<size_t>(rows_) * k}, faults, routes));
  return dispatcher->Finish(x_, faults);
}

void Decoder::Head(std::span<const StepRow> rows, RowFaults faults, const LogitsSink& sink) {
  TrunkOps& ops = backend_->Trunk();
  const size_t hidden = static_cast<size_t>(config_.hidden);
  const size_t vocab = static_cast<size_t>(config_.vocab_size);
  head_rows_.clear();
  for (size_t t = 0; t < rows.size(); ++t) {
    if (rows[t].wants_logits && !faults[t]) head_rows_.push_back(static_cast<int>(t));
  }
  // Rows are drawn together at the front of x_, which nothing reads after this.
  for (size_t i = 0; i < head_rows_.size(); ++i) {
    const size_t t = static_cast<size_t>(head_rows_[i]);
    if (t != i) std::memcpy(x_ + i * hidden, x_ + t * hidden, hidden * sizeof(float));
  }
  for (size_t begin = 0; begin < head_rows_.size(); begin += kHeadRows) {
    const size_t count = std::min<size_t>(kHeadRows, head_rows_.size() - begin);
    head_faults_.assign(count, 0);
    normed_.rows = static_cast<int>(count);
    ops.Norm({config_.norm, output_norm_, nullptr, config_.norm_eps}, x_ + begin * hidden, &normed_,
             head_faults_);
    ops.MatMul(*head_, normed_, nullptr, nullptr, logits_, config_.vocab_size);
    for (size_t i = 0; i < count; ++i) {
      const int row = head_rows_[begin + i];
      if (head_faults_[i]) {
        faults[row] = 1;
      } else {
        sink(row, {logits_ + i * vocab, vocab});
      }
    }
  }
}

absl::Status Decoder::Forward(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                              const std::shared_ptr<const RoutingTable>& routes, RowFaults faults,
                              const LogitsSink& sink) {
  MOEPOOL_CHECK(!rows.empty() && rows.size() <= static_cast<size_t>(max_rows_));
  MOEPOOL_CHECK(faults.size() == rows.size());
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
  backend_->Trunk().Embed(embedding_, tokens_, x_);
  FillRope(rows);
  for (int i = 0; i < config_.layers; ++i) {
    const Layer& layer = layers_[static_cast<size_t>(i)];
    AttentionBlock(layer, i, kv, faults);
    MOEPOOL_RETURN_IF_ERROR(ExpertBlock(layer, i, dispatcher, routes, faults));
  }
  Head(rows, faults, sink);
  return absl::OkStatus();
}

}  // namespace moepool
