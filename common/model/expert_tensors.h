// The three matrices of one expert, found in whichever way the file keeps them: merged 3-D tensors
// (blk.N.ffn_gate_exps.weight), one tensor an expert (blk.N.ffn_gate.E.weight, old Mixtral files), or a dense
// FFN (blk.N.ffn_gate.weight) of which the expert is a slice.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/str.h"
#include "common/model/model_source.h"
#include "common/model/weight_key.h"
#include "common/tensor/matrix_view.h"

namespace moepool {

inline constexpr int kAllExperts = -1;  // of the tensor that holds all of a layer

// `matrix`: ffn_gate, ffn_up or ffn_down.
inline std::string ExpertTensorName(const ModelConfig& config, int layer, std::string_view matrix,
                                    int expert) {
  const std::string merged = config.dense() ? ".weight" : "_exps.weight";
  return StrCat("blk.", layer, ".", matrix, expert == kAllExperts ? merged : StrCat(".", expert, ".weight"));
}

// Whether the layer's experts have a tensor each.  `tensors`: a TensorTable or a ModelSource.
template <typename Tensors>
bool SplitExperts(const ModelConfig& config, const Tensors& tensors, int layer) {
  return !config.dense() &&
         tensors.Find(ExpertTensorName(config, layer, "ffn_gate", kAllExperts)) == nullptr &&
         tensors.Find(ExpertTensorName(config, layer, "ffn_gate", 0)) != nullptr;
}

// gate, up [ffn_e, hidden]; down [hidden, ffn_e]. All three have no rows or columns where a slice is empty.
struct ExpertTensors {
  MatrixView gate;
  MatrixView up;
  MatrixView down;
  WeightKey gate_key;
  WeightKey up_key;
  WeightKey down_key;
  std::vector<TensorBytes> owners;  // keep the views alive
};

// Ranges asked of `source` cover this expert alone, except that a slice of a dense down projection touches
// all its rows (its columns are strided).
absl::StatusOr<ExpertTensors> OpenExpert(const ModelSource& source, int layer, int expert);

// Whether the layer's experts read rows in int8 blocks, f32 otherwise: the form of their dispatch.
// Unimplemented where some read one and some the other; the tensors and both types.
absl::StatusOr<bool> ExpertsReadQuantized(const ModelSource& source, int layer);

// Whether a tensor belongs to experts (and so is never opened by a router).
bool IsExpertTensor(const ModelConfig& config, std::string_view name);

// Bytes of expert weights in the file, by layer and expert [layers * experts].
std::vector<uint64_t> ExpertBytes(const ModelSource& source);

}  // namespace moepool
