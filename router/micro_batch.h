// A range of a step's rows on their way through the layers: where their activations stand, and what the host
// knows of them. All of it lies within the decoder's buffers of the step, at the offset of the first row.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "common/backend/backend.h"
#include "common/model/gate_policy.h"
#include "router/rope_tables.h"

namespace moepool {

// Rows of one sequence are consecutive and ascend in position.
struct StepRow {
  int32_t token = 0;
  int32_t position = 0;
  const int32_t* block_table = nullptr;
  RopeSet rope = RopeSet::kShort;  // of the sequence
  bool wants_logits = false;
  std::optional<PickParams> pick;  // of a row that wants logits: it is content with the id that they give
};

struct TrunkLayer;

// The second micro-batch of a step begins at a multiple of this, so that its activations, of whatever width,
// are aligned to 16 bytes as the first one's are.
inline constexpr int kMicroBatchAlignment = 4;

struct MicroBatch {
  int index = 0;      // in the step
  int first_row = 0;  // of the step
  std::span<const StepRow> rows;
  RowFaults faults;  // [rows]

  // Device memory.
  float* x = nullptr;              // [rows, hidden] residual stream
  Activations normed;              // [rows, hidden]
  float* qkv = nullptr;            // [rows, (heads + 2 kv_heads) * head_dim]
  Activations attended;            // [rows, heads * head_dim]
  float* gate_logits = nullptr;    // [rows, experts]
  float* shared = nullptr;         // [rows, hidden] of the shared expert
  float* shared_logits = nullptr;  // [rows]

  // Host memory.
  AttentionBatch attention;
  std::span<SelectedExpert> selected;     // [rows * experts_per_token]
  std::span<float> shared_weights;        // [rows] of the shared expert
  const TrunkLayer* under_way = nullptr;  // the layer whose exchange is, or null

  int count() const { return static_cast<int>(rows.size()); }
};

}  // namespace moepool
