// A mutant of common/model/canonical_sum.cc, linked in its place: each worker adds whatever experts it holds,
// and the router adds the workers' sums in the order in which they come. What most systems do, and what makes
// answers depend on placement.
#include "common/model/canonical_sum.h"

namespace moepool {

void PlanRow(std::span<const int32_t> selected, std::span<const int> owner, uint32_t levels,
             std::vector<PlannedPart>* parts, std::vector<PlannedAdd>* adds) {
  int count = 0;
  for (size_t i = 0; i < selected.size();) {
    size_t end = i + 1;
    while (end < selected.size() && owner[end] == owner[i]) ++end;
    parts->push_back({owner[i], TreeNode{levels, 0}, static_cast<int>(i), static_cast<int>(end)});
    if (count > 0) adds->push_back({0, count});
    ++count;
    i = end;
  }
}

void PlanLeaves(std::span<const int32_t> experts, std::vector<PlannedAdd>* adds) {
  for (int i = 1; i < static_cast<int>(experts.size()); ++i) adds->push_back({0, i});
}

}  // namespace moepool
