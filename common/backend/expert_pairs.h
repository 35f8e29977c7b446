// The work of an ExpertBatch in the order in which devices do it. A pair is one (part, entry); it has a slot,
// in order of the parts, and a place, in order of the experts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/backend/backend.h"
#include "common/model/canonical_sum.h"

namespace moepool {

struct AddRange {
  int32_t begin;
  int32_t end;
};

struct ExpertPairs {
  // Entries name experts under `experts`.
  void Plan(size_t experts, const ExpertBatch& batch);
  // The additions that leave a part's sum in its first slot, in order; they count from that slot.
  std::span<const PlannedAdd> Adds(int64_t part) const {
    const AddRange& range = part_adds[static_cast<size_t>(part)];
    return std::span(adds).subspan(static_cast<size_t>(range.begin),
                                   static_cast<size_t>(range.end - range.begin));
  }

  std::vector<int32_t> expert_begin;  // [experts + 1] first pair
  std::vector<int32_t> part_slot;     // [parts + 1] first slot
  std::vector<int32_t> slot_pair;     // [pairs]
  std::vector<int32_t> row;           // [pairs] of the activations
  std::vector<float> weight;          // [pairs]
  std::vector<PlannedAdd> adds;
  std::vector<AddRange> part_adds;  // [parts] in adds

 private:
  void SortPairs(size_t experts, const ExpertBatch& batch);
  void PlanAdds(const ExpertBatch& batch);

  std::vector<int32_t> part_experts_;  // of the part last planned
  std::vector<int32_t> experts_;       // of the part being planned
};

}  // namespace moepool
