// See canonical_sum.h.
#include "common/model/canonical_sum.h"

#include <bit>

namespace moepool {
namespace {

// Where [begin, end) splits under its lowest common node: the first expert with the deciding bit set. The
// range holds at least two experts.
int SplitPoint(std::span<const int32_t> experts, int begin, int end, uint32_t* level) {
  const uint32_t differing = static_cast<uint32_t>(experts[begin] ^ experts[end - 1]);
  *level = static_cast<uint32_t>(std::bit_width(differing));  // of the common node
  const int32_t bit = int32_t{1} << (*level - 1);
  int split = begin + 1;
  while ((experts[split] & bit) == 0) ++split;
  return split;
}

// Plans [begin, end), whose common node may be raised to `top` (no other selected expert lies under that
// node). Returns the index of the part in which its sum ends.
int Visit(std::span<const int32_t> selected, std::span<const int> owner, int begin, int end, uint32_t top,
          size_t first_part, std::vector<PlannedPart>* parts, std::vector<PlannedAdd>* adds) {
  bool shared = true;
  for (int i = begin + 1; i < end; ++i) shared = shared && owner[i] == owner[begin];
  if (shared) {
    const TreeNode node{top, static_cast<uint32_t>(selected[begin]) >> top};
    parts->push_back({owner[begin], node, begin, end});
    return static_cast<int>(parts->size() - first_part) - 1;
  }
  uint32_t level = 0;
  const int split = SplitPoint(selected, begin, end, &level);
  const int left = Visit(selected, owner, begin, split, level - 1, first_part, parts, adds);
  const int right = Visit(selected, owner, split, end, level - 1, first_part, parts, adds);
  adds->push_back({left, right});
  return left;
}

void VisitLeaves(std::span<const int32_t> experts, int begin, int end, std::vector<PlannedAdd>* adds) {
  if (end - begin < 2) return;
  uint32_t level = 0;
  const int split = SplitPoint(experts, begin, end, &level);
  VisitLeaves(experts, begin, split, adds);
  VisitLeaves(experts, split, end, adds);
  adds->push_back({begin, split});
}

}  // namespace

void PlanRow(std::span<const int32_t> selected, std::span<const int> owner, uint32_t levels,
             std::vector<PlannedPart>* parts, std::vector<PlannedAdd>* adds) {
  Visit(selected, owner, 0, static_cast<int>(selected.size()), levels, parts->size(), parts, adds);
}

void PlanLeaves(std::span<const int32_t> experts, std::vector<PlannedAdd>* adds) {
  VisitLeaves(experts, 0, static_cast<int>(experts.size()), adds);
}

}  // namespace moepool
