// The trunk of the model: from rows of tokens to logits, one step at a time. Everything but the experts runs
// here, on one backend. Owned by the engine's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/model/gate_policy.h"
#include "common/model/model_source.h"
#include "router/dispatch.h"
#include "router/kv_cache.h"

namespace moepool {

// Rows of one sequence are consecutive and ascend in position.
struct StepRow {
  int32_t token = 0;
  int32_t position = 0;
  const int32_t* block_table = nullptr;
  RopeSet rope = RopeSet::kShort;  // of the sequence
  bool wants_logits = false;
};

// Called for each row that wants logits, in order; `logits` [vocab] may be overwritten.
using LogitsSink = std::function<void(int row, std::span<float> logits)>;

class Decoder {
 public:
  // Loads the trunk's weights. Opens no expert tensor. `backend` outlives this.
  static absl::StatusOr<std::unique_ptr<Decoder>> Create(Backend* backend,
                                                         std::shared_ptr<const ModelSource> source,
                                                         int max_rows);

  // Runs one step of at most max_rows rows. Unavailable: a worker was lost or `routes` is stale; nothing was
  // given to the sink, and the same step can be run again. A row whose numbers are not finite has faults[row]
  // set and yields no logits.
  absl::Status Forward(std::span<const StepRow> rows, const KvCache& kv, Dispatcher* dispatcher,
                       const std::shared_ptr<const RoutingTable>& routes, RowFaults faults,
                       const LogitsSink& sink);

  int max_rows() const { return max_rows_; }

 private:
  struct Layer {
    const float* attn_norm = nullptr;
    const float* ffn_norm = nullptr;
    const float* q_norm = nullptr;
    const float* k_norm = nullptr;
    const float* q_bias = nullptr;
    const float* k_bias = nullptr;
    const float* v_bias = nullptr;
    std::unique_ptr<Matrix> q, k, v, o;
    std::unique_ptr<Matrix> gate;  // null: dense
    WireDType wire = WireDType::kF32;
  };

  Decoder(Backend* backend, std::shared_ptr<const ModelSource> source, int max_rows);
  absl::Status Load();
  absl::StatusOr<std::unique_ptr<Matrix>> LoadMatrix(std::string_view name, int64_t rows, int64_t cols);
  // Null where the model has no such tensor and `required` is false.
  absl::StatusOr<const float*> LoadVector(std::string_view name, int64_t size, bool required);
  absl::StatusOr<WireDType> ExpertWire(int layer) const;
  absl::Status AllocateActivations();
  absl::StatusOr<Activations> MakeActivations(int cols);

  void FillRope(std::span<const StepRow> rows);
  void AttentionBlock(const Layer& layer, int index, const KvCache& kv, RowFaults faults);
  absl::Status ExpertBlock(const Layer& layer, int index, Dispatcher* dispatcher,
                           const std::shared_ptr<const RoutingTable>& routes, RowFaults faults);
  void Head(std::span<const StepRow> rows, RowFaults faults, const LogitsSink& sink);

  Backend* const backend_;
  const std::shared_ptr<const ModelSource> source_;
  const ModelConfig& config_;
  const int max_rows_;
  std::unique_ptr<GatePolicy> gate_policy_;

  std::vector<Layer> layers_;
  MatrixView embedding_;
  TensorBytes embedding_bytes_;
  std::unique_ptr<Matrix> head_;
  const float* output_norm_ = nullptr;
  std::vector<std::unique_ptr<Buffer>> buffers_;  // what the pointers here and in layers_ point into
  std::vector<double> rope_frequency_;            // [rope dims / 2] radians a position

  // Activations of a step, sized for max_rows.
  int rows_ = 0;
  float* x_ = nullptr;            // [rows, hidden] residual stream
  Activations normed_;            // [rows, hidden]
  float* qkv_ = nullptr;          // [rows, (heads + 2 kv_heads) * head_dim]
  Activations attended_;          // [rows, heads * head_dim]
  float* gate_logits_ = nullptr;  // [rows, experts]
  float* logits_ = nullptr;       // [kHeadRows, vocab]
  float* cos_ = nullptr;          // [rows, rope dims / 2]
  float* sin_ = nullptr;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> positions_;
  std::vector<const int32_t*> tables_;
  std::vector<SelectedExpert> selected_;  // [rows * experts_per_token]
  std::vector<uint8_t> head_faults_;
  std::vector<int> head_rows_;
};

}  // namespace moepool
