// Linked with a mutant of the block pool, or of its keys, in the real one's place: a world must complain, or
// a check must fail.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tests/unit/router/sequence_world.h"

namespace moepool {
namespace {

using SequenceMutantDeathTest = ::testing::Test;

TEST(SequenceMutantDeathTest, IsFound) {
  const auto run = [] {
    WorldCounts counts;
    const std::string complaint = RunWorlds(500, 300, Misdeed::kNone, &counts);
    if (complaint.empty()) return;
    std::fputs(complaint.c_str(), stderr);
    std::abort();
  };
  EXPECT_DEATH(run(), "");
}

}  // namespace
}  // namespace moepool
