// The worlds must be able to complain.
#include <gtest/gtest.h>

#include "tests/unit/router/sequence_world.h"

namespace moepool {
namespace {

TEST(SequenceMisdeedsTest, EachIsFound) {
  WorldCounts counts;
  EXPECT_NE(RunWorlds(50, 300, Misdeed::kCommitsFailedSteps, &counts), "");
  EXPECT_NE(RunWorlds(50, 300, Misdeed::kForgetsRopeSet, &counts), "");
  EXPECT_NE(RunWorlds(50, 300, Misdeed::kKeepsCancelled, &counts), "");
  EXPECT_NE(RunWorlds(50, 300, Misdeed::kReusesScoredPositions, &counts), "");
}

}  // namespace
}  // namespace moepool
