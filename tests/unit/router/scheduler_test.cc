#include "router/scheduler.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

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

SequenceView Seq(uint64_t id, int known, int computed, int reserve = 64,
                 absl::Time deadline = absl::InfiniteFuture()) {
  return {SequenceId(id), known, computed, reserve, kNow, deadline};
}
StepChunk Chunk(uint64_t id, int begin, int count, bool sample) {
  return {SequenceId(id), begin, count, sample};
}

StepPlan Plan(const SchedulerLimits& limits, const std::vector<SequenceView>& running,
              const std::vector<SequenceView>& waiting, int free_blocks) {
  return MakeContinuousBatching(limits)->Plan({kNow, running, waiting, free_blocks});
}

TEST(SchedulerTest, NothingToDo) {
  const StepPlan plan = Plan({}, {}, {}, 10);
  EXPECT_THAT(plan.chunks, IsEmpty());
  EXPECT_THAT(plan.admitted, IsEmpty());
  EXPECT_THAT(plan.expired, IsEmpty());
}

TEST(SchedulerTest, SixteenStreamsGiveStepsOfSixteenRows) {
  std::vector<SequenceView> running;
  for (int i = 0; i < 16; ++i) running.push_back(Seq(i, 10 + i, 9 + i));
  const StepPlan plan = Plan({}, running, {}, 0);
  ASSERT_EQ(plan.chunks.size(), 16u);
  for (int i = 0; i < 16; ++i) EXPECT_EQ(plan.chunks[i], Chunk(i, 9 + i, 1, true));
}

TEST(SchedulerTest, DecodeComesBeforePrefillWhateverTheOrder) {
  const StepPlan plan =
      Plan({.token_budget = 20}, {Seq(1, 100, 40), Seq(2, 8, 7), Seq(3, 30, 0), Seq(4, 5, 4)}, {}, 0);
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(2, 7, 1, true), Chunk(4, 4, 1, true), Chunk(1, 40, 18, false)));
}

TEST(SchedulerTest, PrefillFillsTheBudgetInOrderOfAdmission) {
  const StepPlan plan = Plan({.token_budget = 50}, {Seq(1, 30, 10), Seq(2, 25, 0), Seq(3, 90, 0)}, {}, 0);
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 10, 20, true), Chunk(2, 0, 25, true), Chunk(3, 0, 5, false)));
}

TEST(SchedulerTest, AdmitsInOrderWhileBlocksLast) {
  // 3, 2 and 1 blocks: the second does not fit, and the third does not overtake it.
  const StepPlan plan = Plan({}, {}, {Seq(1, 5, 0, 33), Seq(2, 6, 0, 32), Seq(3, 7, 0, 16)}, 4);
  EXPECT_THAT(plan.admitted, ElementsAre(SequenceId(1)));
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(1, 0, 5, true)));
  EXPECT_THAT(Plan({}, {}, {Seq(1, 5, 0, 33), Seq(2, 6, 0, 32), Seq(3, 7, 0, 16)}, 6).admitted,
              ElementsAre(SequenceId(1), SequenceId(2), SequenceId(3)));
}

TEST(SchedulerTest, AdmitsWhileBudgetAndPlacesLast) {
  EXPECT_THAT(Plan({.token_budget = 10}, {}, {Seq(1, 10, 0), Seq(2, 1, 0)}, 99).admitted,
              ElementsAre(SequenceId(1)));
  const StepPlan split = Plan({.token_budget = 11}, {}, {Seq(1, 10, 0), Seq(2, 5, 0)}, 99);
  EXPECT_THAT(split.chunks, ElementsAre(Chunk(1, 0, 10, true), Chunk(2, 0, 1, false)));
  EXPECT_THAT(Plan({.max_running = 2}, {Seq(9, 5, 4)}, {Seq(1, 1, 0), Seq(2, 1, 0)}, 99).admitted,
              ElementsAre(SequenceId(1)));
}

TEST(SchedulerTest, APrefixAlreadyComputedIsNotComputedAgain) {
  EXPECT_THAT(Plan({}, {}, {Seq(1, 40, 32)}, 99).chunks, ElementsAre(Chunk(1, 32, 8, true)));
}

TEST(SchedulerTest, ASequenceWithNothingLeftGetsNoChunk) {
  EXPECT_THAT(Plan({}, {Seq(1, 8, 8)}, {}, 9).chunks, IsEmpty());
}

TEST(SchedulerTest, ExpiredSequencesGetNothingAndHoldNoPlace) {
  const StepPlan plan = Plan(
      {.max_running = 1}, {Seq(1, 8, 7, 64, kNow)},
      {Seq(2, 3, 0, 64, kNow - absl::Seconds(1)), Seq(3, 4, 0), Seq(4, 5, 0, 64, kNow), Seq(5, 5, 0)}, 99);
  EXPECT_THAT(plan.expired, ElementsAre(SequenceId(1), SequenceId(2), SequenceId(4)));
  EXPECT_THAT(plan.admitted, ElementsAre(SequenceId(3)));
  EXPECT_THAT(plan.chunks, ElementsAre(Chunk(3, 0, 4, true)));
  EXPECT_THAT(Plan({}, {Seq(1, 8, 7, 64, kNow + absl::Nanoseconds(1))}, {}, 0).expired, IsEmpty());
}

TEST(SchedulerTest, NeverRunsMoreThanTheBudgetHasRows) {
  const StepPlan plan =
      Plan({.token_budget = 2, .max_running = 8}, {Seq(1, 5, 4)}, {Seq(2, 1, 0), Seq(3, 1, 0)}, 99);
  EXPECT_THAT(plan.admitted, ElementsAre(SequenceId(2)));
  // Two that have nothing to compute at the moment still need their rows later.
  EXPECT_THAT(
      Plan({.token_budget = 2, .max_running = 8}, {Seq(1, 5, 5), Seq(2, 5, 5)}, {Seq(3, 1, 0)}, 99).admitted,
      IsEmpty());
}

// A world in which sequences arrive, are cancelled, expire and finish at random; each step's plan is checked
// and obeyed.
class World {
 public:
  World(uint32_t seed, const SchedulerLimits& limits)
      : rng_(seed), limits_(limits), scheduler_(MakeContinuousBatching(limits)), blocks_(20 + rng_() % 100) {}

  void Run(int arrivals) {
    int steps_without_arrival = 0;
    while (arrivals > 0 || !running_.empty() || !waiting_.empty()) {
      now_ += absl::Milliseconds(1 + Random(20));
      for (int n = arrivals > 0 ? Random(4) : 0; n > 0 && arrivals > 0; --n, --arrivals) Arrive();
      if (Random(15) == 0) Cancel();
      ASSERT_NO_FATAL_FAILURE(Step());
      // Some row of the oldest sequence is computed in each step, so all ends in a bounded number of them.
      steps_without_arrival = arrivals > 0 ? 0 : steps_without_arrival + 1;
      ASSERT_LT(steps_without_arrival, rows_at_most_) << "some sequence starves";
    }
    EXPECT_EQ(held_blocks_, 0);
  }

  int finished() const { return finished_; }
  int expired() const { return expired_; }
  int cancelled() const { return cancelled_; }

 private:
  struct State {
    SequenceView view;
    int outputs_left;
  };
  using List = std::vector<State>;

  int Random(int n) { return static_cast<int>(rng_() % n); }
  int BlocksOf(const SequenceView& s) const {
    return (s.reserve_tokens + limits_.block_tokens - 1) / limits_.block_tokens;
  }

  void Arrive() {
    const int room = blocks_ * limits_.block_tokens;  // the engine refuses what can never fit
    const int prompt = 1 + Random(Random(5) == 0 ? room - 1 : std::min(room - 1, 60));
    const int outputs = 1 + Random(std::min(room - prompt, 40));
    const absl::Time deadline =
        Random(4) == 0 ? now_ + absl::Milliseconds(Random(3000)) : absl::InfiniteFuture();
    waiting_.push_back({{SequenceId(next_id_++), prompt, 0, prompt + outputs, now_, deadline}, outputs});
    rows_at_most_ += prompt + outputs;
  }

  void Cancel() {
    List& list = Random(2) == 0 ? running_ : waiting_;
    if (list.empty()) return;
    const auto victim = list.begin() + Random(static_cast<int>(list.size()));
    if (&list == &running_) held_blocks_ -= BlocksOf(victim->view);
    list.erase(victim);
    ++cancelled_;
  }

  static std::vector<SequenceView> Views(const List& list) {
    std::vector<SequenceView> views;
    for (const State& s : list) views.push_back(s.view);
    return views;
  }

  void Step() {
    const std::vector<SequenceView> running = Views(running_);
    const std::vector<SequenceView> waiting = Views(waiting_);
    const int free_blocks = blocks_ - held_blocks_;
    const StepPlan plan = scheduler_->Plan({now_, running, waiting, free_blocks});
    ASSERT_NO_FATAL_FAILURE(Check(plan, running, waiting, free_blocks));
    Obey(plan);
    ASSERT_LE(held_blocks_, blocks_);
    ASSERT_GE(held_blocks_, 0);
  }

  void Check(const StepPlan& plan, const std::vector<SequenceView>& running,
             const std::vector<SequenceView>& waiting, int free_blocks) {
    std::vector<SequenceId> expired;
    std::vector<SequenceView> live;  // running, then admitted
    std::vector<SequenceView> live_waiting;
    for (const SequenceView& s : running) {
      if (s.deadline <= now_)
        expired.push_back(s.id);
      else
        live.push_back(s);
    }
    for (const SequenceView& s : waiting) {
      if (s.deadline <= now_)
        expired.push_back(s.id);
      else
        live_waiting.push_back(s);
    }
    ASSERT_EQ(plan.expired, expired);

    // Admitted: the first of those waiting, with blocks for all of them.
    ASSERT_LE(plan.admitted.size(), live_waiting.size());
    const size_t decoders_end = live.size();
    for (size_t i = 0; i < plan.admitted.size(); ++i) {
      ASSERT_EQ(plan.admitted[i], live_waiting[i].id);
      free_blocks -= BlocksOf(live_waiting[i]);
      live.push_back(live_waiting[i]);
    }
    ASSERT_GE(free_blocks, 0);
    ASSERT_LE(live.size(), static_cast<size_t>(std::max<int>(limits_.max_running, decoders_end)));

    // Chunks: decode rows of all that run, then prefill in order, each whole before the next begins.
    std::vector<StepChunk> expected;
    int budget = limits_.token_budget;
    for (size_t i = 0; i < decoders_end; ++i) {
      if (live[i].known_tokens - live[i].computed_tokens != 1) continue;
      expected.push_back({live[i].id, live[i].computed_tokens, 1, true});
      --budget;
    }
    ASSERT_GE(budget, 0);
    for (size_t i = 0; i < live.size(); ++i) {
      const int left = live[i].known_tokens - live[i].computed_tokens;
      if (i < decoders_end && left == 1) continue;
      const int count = std::min(left, budget);
      if (i >= decoders_end) {
        ASSERT_GT(count, 0) << "admitted without budget";
      }
      if (count > 0) expected.push_back({live[i].id, live[i].computed_tokens, count, count == left});
      budget -= count;
    }
    ASSERT_EQ(plan.chunks, expected);

    // Nobody waits who could be admitted.
    if (plan.admitted.size() < live_waiting.size() && budget > 0) {
      const int places = std::min(limits_.max_running, limits_.token_budget);
      ASSERT_TRUE(static_cast<int>(live.size()) >= places ||
                  BlocksOf(live_waiting[plan.admitted.size()]) > free_blocks);
    }
  }

  void Obey(const StepPlan& plan) {
    const std::set<SequenceId> expired(plan.expired.begin(), plan.expired.end());
    const auto is_expired = [&](const State& s) { return expired.contains(s.view.id); };
    expired_ += static_cast<int>(expired.size());
    for (const State& s : running_) held_blocks_ -= is_expired(s) ? BlocksOf(s.view) : 0;
    std::erase_if(running_, is_expired);
    std::erase_if(waiting_, is_expired);
    for (size_t i = 0; i < plan.admitted.size(); ++i) {
      held_blocks_ += BlocksOf(waiting_.front().view);
      running_.push_back(waiting_.front());
      waiting_.erase(waiting_.begin());
    }
    std::map<SequenceId, StepChunk> chunks;
    for (const StepChunk& c : plan.chunks) chunks[c.id] = c;
    for (State& s : running_) {
      const auto chunk = chunks.find(s.view.id);
      if (chunk == chunks.end()) continue;
      s.view.computed_tokens += chunk->second.count;
      if (!chunk->second.sample) continue;
      if (--s.outputs_left > 0) ++s.view.known_tokens;
    }
    for (const State& s : running_) {
      if (s.outputs_left > 0) continue;
      held_blocks_ -= BlocksOf(s.view);
      ++finished_;
    }
    std::erase_if(running_, [](const State& s) { return s.outputs_left == 0; });
  }

  std::mt19937 rng_;
  SchedulerLimits limits_;
  std::unique_ptr<Scheduler> scheduler_;
  int blocks_;
  int held_blocks_ = 0;
  absl::Time now_ = kNow;
  uint64_t next_id_ = 0;
  int rows_at_most_ = 1;
  List running_;
  List waiting_;
  int finished_ = 0;
  int expired_ = 0;
  int cancelled_ = 0;
};

TEST(SchedulerTest, RandomWorldsKeepEveryPromise) {
  int finished = 0;
  int expired = 0;
  int cancelled = 0;
  const SchedulerLimits limits[] = {{512, 64, 16}, {16, 16, 16}, {33, 5, 16},
                                    {1, 4, 16},    {7, 64, 3},   {64, 1, 16}};
  for (const SchedulerLimits& l : limits) {
    for (uint32_t seed = 1; seed <= 6; ++seed) {
      SCOPED_TRACE(testing::Message()
                   << "seed " << seed << " budget " << l.token_budget << " places " << l.max_running);
      World world(seed, l);
      ASSERT_NO_FATAL_FAILURE(world.Run(150));
      EXPECT_EQ(world.finished() + world.expired() + world.cancelled(), 150);
      finished += world.finished();
      expired += world.expired();
      cancelled += world.cancelled();
    }
  }
  // The worlds are such that each end is common.
  EXPECT_GT(finished, 1000);
  EXPECT_GT(expired, 100);
  EXPECT_GT(cancelled, 100);
}

}  // namespace
}  // namespace moepool
