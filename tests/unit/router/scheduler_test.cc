#include "router/scheduler.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {

bool operator==(const StepChunk& a, const StepChunk& b) {
  return a.id == b.id && a.begin == b.begin && a.count == b.count && a.sample == b.sample;
}
std::ostream& operator<<(std::ostream& os, const StepChunk& c) {
  return os << "{" << c.id << ": " << c.begin << " + " << c.count << (c.sample ? " sample}" : "}");
}

namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

const absl::Time kNow = absl::FromUnixSeconds(1000);

// Its table covers what is computed, and nobody shares it.
SequenceView Seq(uint64_t id, int known, int computed, absl::Time deadline = absl::InfiniteFuture()) {
  SequenceView view;
  view.id = SequenceId(id);
  view.known_tokens = known;
  view.computed_tokens = computed;
  view.table_blocks = view.held_blocks = view.own_blocks = (computed + 15) / 16;
  view.arrived = kNow;
  view.deadline = deadline;
  return view;
}
StepChunk Chunk(uint64_t id, int begin, int count, bool sample) {
  return {SequenceId(id), begin, count, sample};
}

StepPlan Plan(const SchedulerLimits& limits, const std::vector<SequenceView>& running,
              const std::vector<SequenceView>& waiting, int free_blocks,
              const std::vector<CachedTokens>& cached = {}) {
  SchedulerSnapshot snapshot{kNow, running, waiting, free_blocks, nullptr};
  if (!cached.empty()) snapshot.cached = [&](size_t i) { return cached[i]; };
  return MakeContinuousBatching(limits)->Plan(snapshot);
}

std::vector<SequenceId> Sequences(std::initializer_list<uint64_t> ids) {
  return std::vector<SequenceId>(ids.begin(), ids.end());
}

TEST(SchedulerTest, NothingToDo) {
  const StepPlan plan = Plan({}, {}, {}, 10);
  EXPECT_THAT(plan.chunks, IsEmpty());
  EXPECT_THAT(plan.admitted, IsEmpty());
  EXPECT_THAT(plan.preempted, IsEmpty());
  EXPECT_THAT(plan.expired, IsEmpty());
}

TEST(SchedulerTest, SixteenStreamsGiveStepsOfSixteenRows) {
  std::vector<SequenceView> running;
  for (int i = 0; i < 16; ++i) running.push_back(Seq(i, 10 + i, 9 + i));
  const StepPlan plan = Plan({}, running, {}, 1);  // that of the seventh goes over into its second block
  ASSERT_EQ(plan.chunks.size(), 16u);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(plan.chunks[i], Chunk(i, 9 + i, 1, true));
  EXPECT_THAT(plan.preempted, IsEmpty());
}

TEST(SchedulerTest, DecodeComesBeforePrefillWhateverTheOrder) {
  const StepPlan plan =
      Plan({.token_budget = 20}, {Seq(1, 100, 40), Seq(2, 8, 7), Seq(3, 30, 0), Seq(4, 5, 4)}, {}, 9);
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(2, 7, 1, true), Chunk(4, 4, 1, true), Chunk(1, 40, 18, false)));
}

TEST(SchedulerTest, PrefillFillsTheBudgetInOrderOfAdmission) {
  const StepPlan plan = Plan({.token_budget = 50}, {Seq(1, 30, 10), Seq(2, 25, 0), Seq(3, 90, 0)}, {}, 9);
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 10, 20, true), Chunk(2, 0, 25, true), Chunk(3, 0, 5, false)));
}

TEST(SchedulerTest, ASequenceWithNothingLeftGetsNoChunk) {
  EXPECT_THAT(Plan({}, {Seq(1, 8, 8)}, {}, 9).chunks, IsEmpty());
}

TEST(SchedulerTest, AdmitsWhileThereAreBlocksForAllThatASequenceKnowsAndOneMore) {
  // 3 and 1 blocks known; the first runs alone and takes what it needs.
  const std::vector<SequenceView> waiting = {Seq(1, 33, 0), Seq(2, 16, 0), Seq(3, 1, 0)};
  EXPECT_EQ(Plan({}, {}, waiting, 3).admitted, Sequences({1}));
  // The second needs its own and one for each of the two: 3 + 1 + 2.
  EXPECT_EQ(Plan({}, {}, waiting, 5).admitted, Sequences({1}));
  EXPECT_EQ(Plan({}, {}, waiting, 6).admitted, Sequences({1, 2}));
  EXPECT_EQ(Plan({}, {}, waiting, 8).admitted, Sequences({1, 2, 3}));
}

TEST(SchedulerTest, NobodyOvertakesOneThatNeedsMoreBlocks) {
  const StepPlan plan = Plan({}, {Seq(1, 5, 4)}, {Seq(2, 100, 0), Seq(3, 1, 0)}, 8);
  EXPECT_THAT(plan.admitted, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 4, 1, true)));
}

TEST(SchedulerTest, BlocksThatAPrefillWillNeedArePromised) {
  // The first has 160 known and 16 computed: 9 blocks to go, of which this step takes 1.
  const std::vector<SequenceView> running = {Seq(1, 160, 16)};
  EXPECT_THAT(Plan({.token_budget = 17}, running, {Seq(2, 10, 0)}, 11).admitted, IsEmpty());
  EXPECT_EQ(Plan({.token_budget = 161}, running, {Seq(2, 10, 0)}, 12).admitted, Sequences({2}));
}

TEST(SchedulerTest, AdmitsWhileBudgetAndPlacesLast) {
  EXPECT_EQ(Plan({.token_budget = 10}, {}, {Seq(1, 10, 0), Seq(2, 1, 0)}, 99).admitted, Sequences({1}));
  const StepPlan split = Plan({.token_budget = 11}, {}, {Seq(1, 10, 0), Seq(2, 5, 0)}, 99);
  EXPECT_THAT(split.chunks, ElementsAre(Chunk(1, 0, 10, true), Chunk(2, 0, 1, false)));
  EXPECT_EQ(Plan({.max_running = 2}, {Seq(9, 5, 4)}, {Seq(1, 1, 0), Seq(2, 1, 0)}, 99).admitted,
            Sequences({1}));
}

TEST(SchedulerTest, NeverRunsMoreThanTheBudgetHasRows) {
  const StepPlan plan =
      Plan({.token_budget = 2, .max_running = 8}, {Seq(1, 5, 4)}, {Seq(2, 1, 0), Seq(3, 1, 0)}, 99);
  EXPECT_EQ(plan.admitted, Sequences({2}));
  // Two that have nothing to compute at the moment still need their rows later.
  EXPECT_THAT(
      Plan({.token_budget = 2, .max_running = 8}, {Seq(1, 5, 5), Seq(2, 5, 5)}, {Seq(3, 1, 0)}, 99).admitted,
      IsEmpty());
}

TEST(SchedulerTest, WhatIsCachedIsNotComputedAgain) {
  const StepPlan plan = Plan({}, {}, {Seq(1, 40, 0)}, 99, {{.tokens = 32, .blocks = 2, .idle_blocks = 2}});
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 32, 8, true)));
}

TEST(SchedulerTest, CachedBlocksThatNobodyHoldsComeOutOfTheFreeOnes) {
  // 3 blocks known, 2 of them cached; one more for each of the two sequences.
  const std::vector<SequenceView> running = {Seq(1, 5, 4)};
  const std::vector<SequenceView> waiting = {Seq(2, 40, 0)};
  const CachedTokens held{.tokens = 32, .blocks = 2, .idle_blocks = 0};
  EXPECT_THAT(Plan({}, running, waiting, 2, {held}).admitted, IsEmpty());
  EXPECT_EQ(Plan({}, running, waiting, 3, {held}).admitted, Sequences({2}));
  const CachedTokens idle{.tokens = 32, .blocks = 2, .idle_blocks = 2};
  EXPECT_THAT(Plan({}, running, waiting, 4, {idle}).admitted, IsEmpty());
  EXPECT_EQ(Plan({}, running, waiting, 5, {idle}).admitted, Sequences({2}));
}

TEST(SchedulerTest, TheOneAdmittedLastGivesItsBlocks) {
  // The first two go over into their second blocks, and there is none.
  const std::vector<SequenceView> running = {Seq(1, 17, 16), Seq(2, 33, 32), Seq(3, 20, 19), Seq(4, 5, 4)};
  const StepPlan plan = Plan({}, running, {Seq(5, 1, 0)}, 0);
  EXPECT_EQ(plan.preempted, Sequences({3, 4}));
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 16, 1, true), Chunk(2, 32, 1, true)));
  EXPECT_THAT(plan.admitted, IsEmpty());
  EXPECT_EQ(Plan({}, running, {}, 1).preempted, Sequences({4}));
  EXPECT_THAT(Plan({}, running, {}, 2).preempted, IsEmpty());
}

TEST(SchedulerTest, BlocksThatAreSharedWithAnEarlierOneAreNotFreedByPreemption) {
  std::vector<SequenceView> running = {Seq(1, 33, 32), Seq(2, 30, 29), Seq(3, 40, 39)};
  running[2].own_blocks = 0;
  const StepPlan plan = Plan({}, running, {}, 0);
  EXPECT_EQ(plan.preempted, Sequences({2, 3}));
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 32, 1, true)));
}

TEST(SchedulerTest, PrefillIsCutBeforeAnyoneIsPreempted) {
  const std::vector<SequenceView> running = {Seq(1, 200, 40), Seq(2, 8, 7)};
  StepPlan plan = Plan({}, running, {}, 2);
  EXPECT_THAT(plan.preempted, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(2, 7, 1, true), Chunk(1, 40, 40, false)));
  plan = Plan({}, running, {}, 0);  // 8 positions are left in its third block
  EXPECT_THAT(plan.preempted, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(2, 7, 1, true), Chunk(1, 40, 8, false)));
}

TEST(SchedulerTest, TheLastOneItselfDoesWithoutARow) {
  const StepPlan plan = Plan({}, {Seq(1, 8, 7), Seq(2, 33, 32)}, {}, 0);
  EXPECT_THAT(plan.preempted, IsEmpty());
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 7, 1, true)));
}

TEST(SchedulerTest, AWindowBoundsWhatASequenceNeeds) {
  // 1000 tokens are 63 blocks; with a window of 40 and steps of 8 rows, 4 at most.
  const SchedulerLimits limits{.token_budget = 8, .window_tokens = 40};
  const std::vector<SequenceView> waiting = {Seq(2, 1000, 0)};
  EXPECT_THAT(Plan(limits, {Seq(1, 5, 4)}, waiting, 5).admitted, IsEmpty());
  EXPECT_EQ(Plan(limits, {Seq(1, 5, 4)}, waiting, 6).admitted, Sequences({2}));
  EXPECT_THAT(Plan({.token_budget = 8}, {Seq(1, 5, 4)}, waiting, 64).admitted, IsEmpty());
}

TEST(SchedulerTest, ExpiredSequencesGetNothingAndHoldNoPlace) {
  const StepPlan plan =
      Plan({.max_running = 1}, {Seq(1, 8, 7, kNow)},
           {Seq(2, 3, 0, kNow - absl::Seconds(1)), Seq(3, 4, 0), Seq(4, 5, 0, kNow), Seq(5, 5, 0)}, 99);
  EXPECT_EQ(plan.expired, Sequences({1, 2, 4}));
  EXPECT_EQ(plan.admitted, Sequences({3}));
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(3, 0, 4, true)));
  EXPECT_THAT(Plan({}, {Seq(1, 8, 7, kNow + absl::Nanoseconds(1))}, {}, 0).expired, IsEmpty());
}

TEST(SchedulerTest, TheBlocksOfWhatExpiresAreThereInTheNextStep) {
  const StepPlan plan = Plan({}, {Seq(1, 40, 39, kNow)}, {Seq(2, 4, 0)}, 0);
  EXPECT_EQ(plan.expired, Sequences({1}));
  EXPECT_THAT(plan.admitted, IsEmpty());
  EXPECT_THAT(plan.chunks, IsEmpty());
}

}  // namespace
}  // namespace moepool
