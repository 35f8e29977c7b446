#include "router/reasoning.h"

#include <gtest/gtest.h>

#include <vector>

namespace moepool {
namespace {

// The ids of an answer whose model says `own` in turn, with those that are forced in between.
std::vector<int32_t> Answer(const ReasoningLimit& limit, const std::vector<int32_t>& own) {
  ReasoningProgress progress;
  std::vector<int32_t> ids;
  for (size_t next = 0; ids.size() < 16;) {
    int32_t id = progress.Forced(limit);
    if (id < 0) {
      if (next == own.size()) break;
      id = own[next++];
    }
    ids.push_back(id);
    progress.Push(limit, id);
  }
  return ids;
}

using Ids = std::vector<int32_t>;

TEST(ReasoningTest, NoLimitForcesNothing) { EXPECT_EQ(Answer({}, {1, 2, 3}), (Ids{1, 2, 3})); }

TEST(ReasoningTest, EndsAtTheLimit) {
  EXPECT_EQ(Answer({2, {}, {8, 9}, {}}, {1, 2, 3}), (Ids{1, 2, 8, 9, 3}));
  EXPECT_EQ(Answer({0, {}, {8, 9}, {}}, {1}), (Ids{8, 9, 1}));
}

TEST(ReasoningTest, LeavesAnEndOfItsOwnAlone) {
  EXPECT_EQ(Answer({4, {}, {8, 9}, {}}, {1, 8, 9, 2, 3, 4, 5}), (Ids{1, 8, 9, 2, 3, 4, 5}));
  EXPECT_EQ(Answer({2, {}, {8, 9}, {}}, {1, 8, 5, 6}), (Ids{1, 8, 9, 5, 6}));  // begun in time: gone on with
}

TEST(ReasoningTest, IsOverWhereTheMarkerComesInOtherCompany) {
  const ReasoningLimit limit = {4, {}, {7, 8, 9, 7}, {8, 9}};
  EXPECT_EQ(Answer(limit, {1, 8, 9, 2, 3, 4, 5}), (Ids{1, 8, 9, 2, 3, 4, 5}));
  EXPECT_EQ(Answer(limit, {1, 8, 8, 9, 3, 4, 5}), (Ids{1, 8, 8, 9, 3, 4, 5}));
  EXPECT_EQ(Answer(limit, {1, 2, 3, 4, 5}), (Ids{1, 2, 3, 4, 7, 8, 9, 7, 5}));  // forced to its end
  EXPECT_EQ(Answer(limit, {1, 2, 3, 7, 5}), (Ids{1, 2, 3, 7, 8, 9, 7, 5}));
}

TEST(ReasoningTest, FindsAnEndThatOverlapsItself) {
  EXPECT_EQ(Answer({9, {}, {7, 7, 8}, {}}, {7, 7, 7, 8, 1, 1, 1, 1, 1, 1, 1}),
            (Ids{7, 7, 7, 8, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(Answer({3, {}, {7, 7, 8}, {}}, {7, 7, 7, 5}), (Ids{7, 7, 7, 8, 5}));
}

TEST(ReasoningTest, CountsOnlyWhereTheAnswerBegins) {
  EXPECT_EQ(Answer({2, {5, 6}, {8}, {}}, {5, 6, 1, 2}), (Ids{5, 6, 8, 1, 2}));
  EXPECT_EQ(Answer({1, {5, 6}, {8}, {}}, {5, 6, 1}), (Ids{5, 6, 8, 1}));
  EXPECT_EQ(Answer({2, {5, 6}, {8}, {}}, {5, 1, 2, 3}), (Ids{5, 1, 2, 3}));
}

}  // namespace
}  // namespace moepool
