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
  std::vector<int32_t> owner;          // [layers * experts] index into workers
  std::vector<uint64_t> worker_bytes;  // [workers]
};

// Contiguous ranges of experts in the order of the workers, the same in every layer. A worker's share is its
// limit over the sum of the limits; one without a limit counts as holding the whole model, or the largest
// limit if that is more. A range may exceed its worker's share by a quarter (more only where every plan
// must), and never its limit. Among those plans: fewest workers without work, then fewest aligned blocks,
// that is edges on the largest powers of two, so that parts of a row stay few, then nearest to the shares. 16
// equal experts fall 8+8, 6+6+4, 4+4+4+4, 4+4+4+2+2.
//
// A plan is found wherever one with contiguous ranges in this order keeps the limits. A worker may end with
// none. FailedPrecondition names the bytes needed and the bytes the workers have, or the expert that no
// worker can hold. InvalidArgument: expert_bytes is not [layers * experts], or its sum exceeds 2^63.
absl::StatusOr<PlacementPlan> PlanPlacement(const PlacementInput& input);

}  // namespace moepool
