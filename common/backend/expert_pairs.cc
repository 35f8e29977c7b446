// See expert_pairs.h.
#include "common/backend/expert_pairs.h"

namespace moepool {

void ExpertPairs::Plan(size_t experts, const ExpertBatch& batch) {
  SortPairs(experts, batch);
  PlanAdds(batch);
}

void ExpertPairs::SortPairs(size_t experts, const ExpertBatch& batch) {
  expert_begin.assign(experts + 1, 0);
  part_slot.assign(1, 0);
  for (const ExpertPart& part : batch.parts) {
    for (int32_t e = part.begin; e < part.end; ++e) ++expert_begin[batch.entries[e].expert + 1];
    part_slot.push_back(part_slot.back() + part.end - part.begin);
  }
  for (size_t e = 0; e < experts; ++e) expert_begin[e + 1] += expert_begin[e];
  const size_t pairs = static_cast<size_t>(part_slot.back());
  slot_pair.resize(pairs);
  row.resize(pairs);
  weight.resize(pairs);
  size_t slot = 0;
  for (const ExpertPart& part : batch.parts) {
    for (int32_t e = part.begin; e < part.end; ++e, ++slot) {
      const int32_t pair = expert_begin[batch.entries[e].expert]++;
      slot_pair[slot] = pair;
      row[pair] = part.row;
      weight[pair] = batch.entries[e].weight;
    }
  }
  for (size_t e = experts; e > 0; --e) expert_begin[e] = expert_begin[e - 1];
  expert_begin[0] = 0;
}

// Parts of one call mostly name the same experts (all of them, in a dense model), and then share a plan.
void ExpertPairs::PlanAdds(const ExpertBatch& batch) {
  adds.clear();
  part_adds.clear();
  part_experts_.clear();
  for (const ExpertPart& part : batch.parts) {
    experts_.clear();
    for (int32_t e = part.begin; e < part.end; ++e) experts_.push_back(batch.entries[e].expert);
    if (!part_adds.empty() && experts_ == part_experts_) {
      part_adds.push_back(part_adds.back());
      continue;
    }
    const int32_t begin = static_cast<int32_t>(adds.size());
    PlanLeaves(experts_, &adds);
    part_adds.push_back({begin, static_cast<int32_t>(adds.size())});
    part_experts_.swap(experts_);
  }
}

}  // namespace moepool
