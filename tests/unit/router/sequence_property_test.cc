// Scheduler and KV cache together, in worlds of random shapes.
#include <gtest/gtest.h>

#include <iostream>

#include "tests/unit/router/sequence_world.h"

namespace moepool {
namespace {

TEST(SequencePropertyTest, WorldsOfEveryShapeKeepEveryPromise) {
  WorldCounts counts;
  ASSERT_EQ(RunWorlds(500, 300, Misdeed::kNone, &counts), "");
  std::cout << counts.steps << " steps, " << counts.preemptions << " preemptions, " << counts.hit_tokens
            << " tokens from the prefix cache, " << counts.evictions << " evictions\n";
  EXPECT_EQ(counts.finished + counts.cancelled + counts.expired + counts.faulted, 500 * 300);
  // The worlds are such that all of this is common.
  EXPECT_GT(counts.steps, 100'000);
  EXPECT_GT(counts.finished, 10'000);
  EXPECT_GT(counts.failed_steps, 5'000);
  EXPECT_GT(counts.cancelled, 1'000);
  EXPECT_GT(counts.expired, 1'000);
  EXPECT_GT(counts.faulted, 1'000);
  EXPECT_GT(counts.preemptions, 5'000);
  EXPECT_GT(counts.hit_tokens, 100'000);
  EXPECT_GT(counts.evictions, 10'000);
}

}  // namespace
}  // namespace moepool
