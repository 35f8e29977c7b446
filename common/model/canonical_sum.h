// The fixed order in which the experts of a row are added, so that no placement changes a bit of the answer.
//
// The tree is binary over expert numbers: node (level, index) covers the experts e with e >> level == index,
// and its value is the sum of its two children where both hold a selected expert, otherwise that of the child
// that does. A worker returns the highest nodes whose selected experts it all holds (parts); the router adds
// the parts.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"

namespace moepool {

struct TreeNode {
  uint32_t level = 0;
  uint32_t index = 0;
  bool operator==(const TreeNode&) const = default;
};

// Levels above the leaves of a tree over `experts` experts.
constexpr uint32_t TreeLevels(int experts) {
  uint32_t levels = 0;
  while ((int64_t{1} << levels) < experts) ++levels;
  return levels;
}

struct PlannedPart {
  int owner;      // as given
  TreeNode node;  // the highest whose selected experts share the owner
  int begin;      // in the row's selected experts
  int end;
};

// An addition of part (or leaf) `src` into `dst`; both count from 0 in the row's own list.
struct PlannedAdd {
  int dst;
  int src;
};

// Splits one row's selected experts (ascending, distinct, non-empty) by owner. Appends the parts in ascending
// order of their first expert, and the additions which, done in the order given, leave the row's sum in part
// 0.
void PlanRow(std::span<const int32_t> selected, std::span<const int> owner, uint32_t levels,
             std::vector<PlannedPart>* parts, std::vector<PlannedAdd>* adds);

// The additions, in order, that leave the sum of leaves in leaf 0. experts ascend and are distinct.
void PlanLeaves(std::span<const int32_t> experts, std::vector<PlannedAdd>* adds);

}  // namespace moepool
