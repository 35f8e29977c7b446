// See decoder_weights.h.
#include "router/decoder_weights.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/parallel_status.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/expert_tensors.h"

namespace moepool {
namespace {

class Loader {
 public:
  Loader(Backend* backend, const ModelSource& source)
      : backend_(backend), source_(source), config_(source.Config()) {}

  absl::StatusOr<TrunkWeights> Load() {
    const int64_t hidden = config_.hidden;
    const int64_t vocab = config_.vocab_size;
    MOEPOOL_RETURN_IF_ERROR(LoadEmbedding());
    MOEPOOL_ASSIGN_OR_RETURN(out_.output_norm, LoadNorm("output_norm"));
    LoadMatrix(config_.tied_embeddings ? "token_embd.weight" : "output.weight", vocab, hidden, &out_.head);
    if (config_.output_bias) {
      MOEPOOL_ASSIGN_OR_RETURN(out_.head_bias, LoadVector("output.bias", vocab));
    }
    out_.layers.resize(static_cast<size_t>(config_.layers));
    for (int i = 0; i < config_.layers; ++i) {
      TrunkLayer& layer = out_.layers[static_cast<size_t>(i)];
      const std::string prefix = StrCat("blk.", i, ".");
      MOEPOOL_RETURN_IF_ERROR(LoadAttention(prefix, &layer));
      MOEPOOL_ASSIGN_OR_RETURN(layer.ffn_norm, LoadNorm(prefix + "ffn_norm"));
      if (!config_.dense()) {
        LoadMatrix(prefix + "ffn_gate_inp.weight", config_.experts, hidden, &layer.gate);
      }
      if (config_.shared_ffn > 0) MOEPOOL_RETURN_IF_ERROR(LoadShared(prefix, &layer));
      MOEPOOL_ASSIGN_OR_RETURN(const bool quantized, ExpertsReadQuantized(source_, i));
      layer.wire = quantized ? WireDType::kInt8Block32 : WireDType::kF32;
    }
    MOEPOOL_RETURN_IF_ERROR(
        ParallelStatus(static_cast<int64_t>(matrices_.size()), /*threads=*/0,
                       [this](int64_t i) { return LoadNow(matrices_[static_cast<size_t>(i)]); }));
    backend_->KeepLoaded([] { return false; });
    for (TrunkLayer& layer : out_.layers) {
      if (layer.shared == nullptr) continue;
      const ExpertWeights* const shared = layer.shared.get();
      MOEPOOL_ASSIGN_OR_RETURN(layer.shared_set, backend_->Experts().MakeSet({&shared, 1}));
    }
    return std::move(out_);
  }

 private:
  absl::Status LoadEmbedding() {
    MOEPOOL_ASSIGN_OR_RETURN(const TensorInfo* info, Find("token_embd.weight"));
    MOEPOOL_ASSIGN_OR_RETURN(out_.embedding_bytes, source_.Range(info->name, 0, info->bytes));
    out_.embedding.dtype = info->dtype;
    out_.embedding.rows = config_.vocab_size;
    out_.embedding.cols = config_.hidden;
    out_.embedding.data = out_.embedding_bytes.bytes.data();
    out_.embedding.row_stride_bytes = RowBytes(info->dtype, config_.hidden);
    return absl::OkStatus();
  }

  absl::Status LoadAttention(const std::string& prefix, TrunkLayer* layer) {
    const int64_t hidden = config_.hidden;
    const int64_t q_dim = int64_t{config_.heads} * config_.head_dim;
    const int64_t kv_dim = int64_t{config_.kv_heads} * config_.head_dim;
    MOEPOOL_ASSIGN_OR_RETURN(layer->attn_norm, LoadNorm(prefix + "attn_norm"));
    LoadMatrix(prefix + "attn_q.weight", q_dim, hidden, &layer->q);
    LoadMatrix(prefix + "attn_k.weight", kv_dim, hidden, &layer->k);
    LoadMatrix(prefix + "attn_v.weight", kv_dim, hidden, &layer->v);
    LoadMatrix(prefix + "attn_output.weight", hidden, q_dim, &layer->o);
    if (config_.qkv_bias) {
      MOEPOOL_ASSIGN_OR_RETURN(layer->q_bias, LoadVector(prefix + "attn_q.bias", q_dim));
      MOEPOOL_ASSIGN_OR_RETURN(layer->k_bias, LoadVector(prefix + "attn_k.bias", kv_dim));
      MOEPOOL_ASSIGN_OR_RETURN(layer->v_bias, LoadVector(prefix + "attn_v.bias", kv_dim));
    }
    if (config_.attn_output_bias) {
      MOEPOOL_ASSIGN_OR_RETURN(layer->o_bias, LoadVector(prefix + "attn_output.bias", hidden));
    }
    if (config_.qk_norm == QkNorm::kNone) return absl::OkStatus();
    const bool row = config_.qk_norm == QkNorm::kRow;
    MOEPOOL_ASSIGN_OR_RETURN(layer->q_norm,
                             LoadVector(prefix + "attn_q_norm.weight", row ? q_dim : config_.head_dim));
    MOEPOOL_ASSIGN_OR_RETURN(layer->k_norm,
                             LoadVector(prefix + "attn_k_norm.weight", row ? kv_dim : config_.head_dim));
    return absl::OkStatus();
  }

  absl::Status LoadShared(const std::string& prefix, TrunkLayer* layer) {
    const int64_t hidden = config_.hidden;
    const int64_t ffn = config_.shared_ffn;
    layer->shared = std::make_unique<ExpertWeights>();
    layer->shared->activation = config_.activation;
    LoadMatrix(prefix + "ffn_gate_shexp.weight", ffn, hidden, &layer->shared->gate);
    LoadMatrix(prefix + "ffn_up_shexp.weight", ffn, hidden, &layer->shared->up);
    LoadMatrix(prefix + "ffn_down_shexp.weight", hidden, ffn, &layer->shared->down);
    if (!config_.shared_gated) return absl::OkStatus();
    LoadMatrix(prefix + "ffn_gate_inp_shexp.weight", 1, hidden, &layer->shared_gate);
    return absl::OkStatus();
  }

  absl::StatusOr<NormWeights> LoadNorm(const std::string& name) {
    NormWeights norm;
    norm.kind = config_.norm;
    norm.eps = config_.norm_eps;
    MOEPOOL_ASSIGN_OR_RETURN(norm.weight, LoadVector(name + ".weight", config_.hidden));
    if (config_.norm_bias) {
      MOEPOOL_ASSIGN_OR_RETURN(norm.bias, LoadVector(name + ".bias", config_.hidden));
    }
    return norm;
  }

  absl::StatusOr<const TensorInfo*> Find(std::string_view name) const {
    const TensorInfo* info = source_.Find(name);
    if (info == nullptr) return absl::NotFoundError(StrCat("tensor ", name, " is missing"));
    return info;
  }

  absl::StatusOr<MatrixView> Open(std::string_view name, int64_t rows, int64_t cols,
                                  TensorBytes* bytes) const {
    MOEPOOL_ASSIGN_OR_RETURN(const TensorInfo* info, Find(name));
    if (info->dims[0] != cols || info->dims[1] != rows) {
      return absl::InvalidArgumentError(StrCat("tensor ", name, " is [", info->dims[0], ", ", info->dims[1],
                                               "], expected [", cols, ", ", rows, "]"));
    }
    MOEPOOL_ASSIGN_OR_RETURN(*bytes, source_.Range(name, 0, info->bytes));
    MatrixView view;
    view.dtype = info->dtype;
    view.rows = rows;
    view.cols = cols;
    view.data = bytes->bytes.data();
    view.row_stride_bytes = RowBytes(info->dtype, cols);
    return view;
  }

  // Matrices are most of the bytes: they are loaded last, by all cores.
  struct PendingMatrix {
    std::string name;
    int64_t rows;
    int64_t cols;
    std::unique_ptr<Matrix>* out;
  };

  // `out` stays where it is until Load() returns.
  void LoadMatrix(std::string name, int64_t rows, int64_t cols, std::unique_ptr<Matrix>* out) {
    matrices_.push_back({std::move(name), rows, cols, out});
  }

  absl::Status LoadNow(const PendingMatrix& matrix) {
    TensorBytes bytes;
    MOEPOOL_ASSIGN_OR_RETURN(const MatrixView view, Open(matrix.name, matrix.rows, matrix.cols, &bytes));
    absl::StatusOr<std::unique_ptr<Matrix>> loaded = backend_->Load(view, {&source_, matrix.name, 0});
    if (!loaded.ok()) {
      return absl::Status(loaded.status().code(),
                          StrCat("tensor ", matrix.name, ": ", ToStd(loaded.status().message())));
    }
    *matrix.out = *std::move(loaded);
    return absl::OkStatus();
  }

  // Vectors are f32 on the device, whatever they are in the file.
  absl::StatusOr<const float*> LoadVector(const std::string& name, int64_t size) {
    TensorBytes bytes;
    MOEPOOL_ASSIGN_OR_RETURN(const MatrixView view, Open(name, 1, size, &bytes));
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<Buffer> buffer,
                             backend_->Allocate(static_cast<size_t>(size) * sizeof(float)));
    std::vector<float> values(static_cast<size_t>(size));
    DequantizeRow(view, 0, values.data());
    buffer->Write(0, std::as_bytes(std::span<const float>(values)));
    out_.buffers.push_back(std::move(buffer));
    return out_.buffers.back()->f32();
  }

  Backend* const backend_;
  const ModelSource& source_;
  const ModelConfig& config_;
  TrunkWeights out_;
  std::vector<PendingMatrix> matrices_;
};

}  // namespace

absl::StatusOr<TrunkWeights> LoadTrunkWeights(Backend* backend, const ModelSource& source) {
  return Loader(backend, source).Load();
}

}  // namespace moepool
