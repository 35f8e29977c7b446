// Which worker holds which expert. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/strong_id.h"

namespace moepool {

struct PlacementWorker {
  WorkerId id;
  uint64_t memory_limit_bytes = 0;  // 0: no limit
};

struct PlacementInput {
  std::span<const PlacementWorker> workers;  // in order of joining
  std::span<const uint64_t> expert_bytes;    // [layers * experts]
  int layers = 0;
  int experts = 0;
};

struct PlacementPlan {
  std::vector<int32_t> owner;           // [layers * experts] index into workers
  std::vector<uint64_t> worker_bytes;   // [workers]
};

// Contiguous ranges of experts, the same in every layer, near to each worker's share of the memory (equal shares where none is
// limited) and with edges on multiples of the largest power of two that fits, so that parts of a row stay few.
// A worker may end with none. FailedPrecondition names the bytes needed and the bytes the workers have.
absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementInput& input);

}  // namespace moepool
