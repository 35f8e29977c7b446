#include "common/model/canonical_sum.h"

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::IsEmpty;

// The definition, from the root down: the sum below a node as an expression, empty where no selected expert
// lies there.
std::string Expression(const std::set<int32_t>& selected, uint32_t level, uint32_t index) {
  if (level == 0) return selected.contains(index) ? std::to_string(index) : "";
  const std::string left = Expression(selected, level - 1, 2 * index);
  const std::string right = Expression(selected, level - 1, 2 * index + 1);
  if (left.empty() || right.empty()) return left + right;
  return "(" + left + "+" + right + ")";
}

// The fewest nodes below (level, index) that hold all selected experts, each node those of one owner.
int FewestParts(std::span<const int32_t> selected, std::span<const int> owner, uint32_t level,
                uint32_t index) {
  std::set<int> owners;
  for (size_t i = 0; i < selected.size(); ++i) {
    if (static_cast<uint32_t>(selected[i]) >> level == index) owners.insert(owner[i]);
  }
  if (owners.size() < 2) return static_cast<int>(owners.size());
  return FewestParts(selected, owner, level - 1, 2 * index) +
         FewestParts(selected, owner, level - 1, 2 * index + 1);
}

// Carries out additions on expressions; each value is taken once, and the last left is the first.
std::string Add(std::vector<std::string> values, std::span<const PlannedAdd> adds) {
  EXPECT_EQ(adds.size() + 1, values.size());
  for (const PlannedAdd& add : adds) {
    if (add.dst < 0 || add.src < 0 || add.dst >= static_cast<int>(values.size()) ||
        add.src >= static_cast<int>(values.size()) || values[add.dst].empty() || values[add.src].empty()) {
      ADD_FAILURE() << "addition of " << add.src << " into " << add.dst << " of " << values.size();
      return "";
    }
    values[add.dst] = "(" + values[add.dst] + "+" + values[add.src] + ")";
    values[add.src].clear();
  }
  return values[0];
}

std::string SumOfLeaves(std::span<const int32_t> experts) {
  std::vector<PlannedAdd> adds;
  PlanLeaves(experts, &adds);
  std::vector<std::string> leaves;
  for (int32_t e : experts) leaves.push_back(std::to_string(e));
  return Add(leaves, adds);
}

// As workers and router compute it: leaves within parts, then the parts.
std::string SumOfParts(std::span<const int32_t> selected, std::span<const PlannedPart> parts,
                       std::span<const PlannedAdd> adds) {
  std::vector<std::string> sums;
  for (const PlannedPart& part : parts)
    sums.push_back(SumOfLeaves(selected.subspan(part.begin, part.end - part.begin)));
  return Add(sums, adds);
}

TEST(CanonicalSumTest, TreeLevels) {
  EXPECT_EQ(TreeLevels(1), 0u);
  EXPECT_EQ(TreeLevels(2), 1u);
  EXPECT_EQ(TreeLevels(3), 2u);
  EXPECT_EQ(TreeLevels(16), 4u);
  EXPECT_EQ(TreeLevels(17), 5u);
  EXPECT_EQ(TreeLevels(1 << 30), 30u);
  EXPECT_EQ(TreeLevels((1 << 30) + 1), 31u);
}

TEST(CanonicalSumTest, LeavesByHand) {
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{9}), "9");
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{0, 1, 3}), "((0+1)+3)");
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{1, 2, 3}), "(1+(2+3))");
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{3, 4}), "(3+4)");
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{5, 6, 7, 12}), "((5+(6+7))+12)");
  EXPECT_EQ(SumOfLeaves(std::vector<int32_t>{0, 4, 5, 127}), "((0+(4+5))+127)");
}

struct Planned {
  std::vector<PlannedPart> parts;
  std::vector<PlannedAdd> adds;
};

Planned Row(const std::vector<int32_t>& selected, const std::vector<int>& owner, int experts) {
  Planned planned;
  PlanRow(selected, owner, TreeLevels(experts), &planned.parts, &planned.adds);
  return planned;
}

TEST(CanonicalSumTest, AlignedHalvesGiveOnePartEach) {
  std::vector<int32_t> selected(16);
  std::iota(selected.begin(), selected.end(), 0);
  std::vector<int> owner(16, 0);
  std::fill(owner.begin() + 8, owner.end(), 1);
  const Planned planned = Row(selected, owner, 16);
  ASSERT_EQ(planned.parts.size(), 2u);
  EXPECT_EQ(planned.parts[0].node, (TreeNode{3, 0}));
  EXPECT_EQ(planned.parts[1].node, (TreeNode{3, 1}));
  EXPECT_EQ(planned.parts[1].owner, 1);
  EXPECT_EQ(planned.parts[1].begin, 8);
  EXPECT_EQ(planned.parts[1].end, 16);
}

TEST(CanonicalSumTest, APartRisesUntilAnotherOwnersExpertLiesBelow) {
  // One owner: the root, whatever is selected.
  EXPECT_EQ(Row({5}, {3}, 16).parts[0].node, (TreeNode{4, 0}));
  EXPECT_THAT(Row({5}, {3}, 16).adds, IsEmpty());
  EXPECT_EQ(Row({2, 13}, {3, 3}, 16).parts.size(), 1u);
  // 2 and 13 meet at the root, where 9 of another owner lies too.
  const Planned planned = Row({2, 9, 13}, {3, 7, 3}, 16);
  ASSERT_EQ(planned.parts.size(), 3u);
  EXPECT_EQ(planned.parts[0].node, (TreeNode{3, 0}));
  EXPECT_EQ(planned.parts[1].node, (TreeNode{2, 2}));
  EXPECT_EQ(planned.parts[2].node, (TreeNode{2, 3}));
}

TEST(CanonicalSumTest, RowsAreAppended) {
  Planned planned = Row({0, 1}, {0, 1}, 2);
  const std::vector<int32_t> selected = {1, 2, 3};
  const std::vector<int> owner = {0, 0, 1};
  PlanRow(selected, owner, 2, &planned.parts, &planned.adds);
  ASSERT_EQ(planned.parts.size(), 5u);
  ASSERT_EQ(planned.adds.size(), 3u);
  EXPECT_EQ(planned.parts[0].end, 1);
  // Counted from 0 in the row's own list.
  EXPECT_EQ(planned.parts[2].begin, 0);
  EXPECT_EQ(SumOfParts(selected, std::span(planned.parts).subspan(2), std::span(planned.adds).subspan(1)),
            "(1+(2+3))");
}

// Owners as placement makes them (ranges), as blocks of experts in turn, and at random.
std::vector<int> Owners(std::mt19937* rng, int experts) {
  const int workers = 1 + (*rng)() % 6;
  std::vector<int> owner(experts);
  const int kind = (*rng)() % 3;
  const int block = 1 << (*rng)() % 5;
  for (int e = 0; e < experts; ++e) {
    owner[e] = kind == 0 ? e * workers / experts : kind == 1 ? e / block % workers : (*rng)() % workers;
  }
  return owner;
}

TEST(CanonicalSumTest, EveryOwnershipGivesTheSameExpressionInTheFewestParts) {
  constexpr uint32_t kSeed = 12;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  int split_rows = 0;
  for (int round = 0; round < 400; ++round) {
    const int experts = 1 + rng() % 200;
    const uint32_t levels = TreeLevels(experts);
    std::vector<int32_t> all(experts);
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), rng);
    const int top_k = round % 4 == 0 ? experts : 1 + rng() % std::min(experts, 12);
    std::vector<int32_t> selected(all.begin(), all.begin() + top_k);
    std::sort(selected.begin(), selected.end());
    const std::string expected = Expression({selected.begin(), selected.end()}, levels, 0);
    ASSERT_EQ(SumOfLeaves(selected), expected);

    for (int ownership = 0; ownership < 12; ++ownership) {
      const std::vector<int> by_expert = Owners(&rng, experts);
      std::vector<int> owner;
      for (int32_t e : selected) owner.push_back(by_expert[e]);
      const Planned planned = Row(selected, owner, experts);
      ASSERT_EQ(SumOfParts(selected, planned.parts, planned.adds), expected);
      ASSERT_EQ(static_cast<int>(planned.parts.size()), FewestParts(selected, owner, levels, 0));
      split_rows += planned.parts.size() > 1;

      int next = 0;
      for (const PlannedPart& part : planned.parts) {
        ASSERT_EQ(part.begin, next);  // parts tile the row in order
        ASSERT_LT(part.begin, part.end);
        next = part.end;
        bool parent_is_whole = true;
        for (int i = 0; i < top_k; ++i) {
          const uint32_t e = selected[i];
          const bool below = e >> part.node.level == part.node.index;
          ASSERT_EQ(below, part.begin <= i && i < part.end);  // a node's selected experts, all and no others
          if (below) {
            ASSERT_EQ(owner[i], part.owner);
          }
          if (e >> (part.node.level + 1) == part.node.index >> 1) {
            parent_is_whole = parent_is_whole && owner[i] == part.owner;
          }
        }
        ASSERT_TRUE(part.node.level == levels || !parent_is_whole) << "a part could be higher";
      }
      ASSERT_EQ(next, top_k);
    }
  }
  EXPECT_GT(split_rows, 2000);
}

}  // namespace
}  // namespace moepool
