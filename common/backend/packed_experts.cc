#include "common/backend/packed_experts.h"

#include "common/base/status_macros.h"
#include "common/kernels/packed.h"
#include "common/model/expert_tensors.h"

namespace moepool {

absl::StatusOr<std::vector<uint64_t>> PackedExpertBytes(const ModelSource& source) {
  const ModelConfig& config = source.Config();
  std::vector<uint64_t> bytes;
  for (int layer = 0; layer < config.layers; ++layer) {
    for (int expert = 0; expert < config.experts; ++expert) {
      MOEPOOL_ASSIGN_OR_RETURN(const ExpertTensors tensors, OpenExpert(source, layer, expert));
      uint64_t& sum = bytes.emplace_back(0);
      if (tensors.gate.rows == 0) continue;  // an empty slice of a dense model
      for (const MatrixView* view : {&tensors.gate, &tensors.up, &tensors.down}) {
        MOEPOOL_ASSIGN_OR_RETURN(const PackedMatrix packed, PlanPack(*view));
        sum += packed.bytes();
      }
    }
  }
  return bytes;
}

}  // namespace moepool
