// The three matrices of one expert, found in whichever way the file keeps them: merged 3-D tensors
// (blk.N.ffn_gate_exps.weight), or a dense FFN (blk.N.ffn_gate.weight) of which the expert is a slice.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_source.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

// gate, up [ffn_e, hidden]; down [hidden, ffn_e]. All three have no rows or columns where a slice is empty.
struct ExpertTensors {
  MatrixView gate;
  MatrixView up;
  MatrixView down;
  std::vector<TensorBytes> owners;  // keep the views alive
};

// Ranges asked of `source` cover this expert alone, except that a slice of a dense down projection touches
// all its rows (its columns are strided).
absl::StatusOr<ExpertTensors> OpenExpert(const ModelSource& source, int layer, int expert);

// Whether a tensor belongs to experts (and so is never opened by a router).
bool IsExpertTensor(const ModelConfig& config, std::string_view name);

// Bytes of expert weights in the file, by layer and expert [layers * experts]: what placement weighs.
std::vector<uint64_t> ExpertBytes(const ModelSource& source);

}  // namespace moepool
