// The trunk's weights on its device: everything of a model but the experts that are shared out.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/model/model_source.h"
#include "common/transport/frame.h"

namespace moepool {

// Pointers are into TrunkWeights::buffers, null where the model has no such vector.
struct TrunkLayer {
  NormWeights attn_norm;
  NormWeights ffn_norm;
  const float* q_norm = nullptr;
  const float* k_norm = nullptr;
  const float* q_bias = nullptr;
  const float* k_bias = nullptr;
  const float* v_bias = nullptr;
  const float* o_bias = nullptr;
  std::unique_ptr<Matrix> q, k, v, o;
  std::unique_ptr<Matrix> gate;           // [experts, hidden]; null: dense
  std::unique_ptr<ExpertWeights> shared;  // null: none
  std::unique_ptr<ExpertSet> shared_set;  // of it; null: none, or the backend has none
  std::unique_ptr<Matrix> shared_gate;    // [1, hidden]; null: its weight is 1
  WireDType wire = WireDType::kF32;       // of dispatches
};

struct TrunkWeights {
  MatrixView embedding;  // of embedding_bytes, in the file's own form
  TensorBytes embedding_bytes;
  std::vector<TrunkLayer> layers;
  NormWeights output_norm;
  std::unique_ptr<Matrix> head;  // [vocab, hidden]
  const float* head_bias = nullptr;
  std::vector<std::unique_ptr<Buffer>> buffers;
};

// Opens no tensor of a shared-out expert. NotFound, InvalidArgument and the backend's own errors name the
// tensor.
absl::StatusOr<TrunkWeights> LoadTrunkWeights(Backend* backend, const ModelSource& source);

}  // namespace moepool
