#include "tools/bench_sequences.h"

#include <set>
#include <string>
#include <thread>

#include "common/trunk/fake_trunk.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

constexpr absl::Duration kPatience = absl::Seconds(60);  // a bound against hanging

ModelInfo Model() {
  ModelInfo info;
  info.name = "fake";
  info.vocab_size = 40;
  info.tokenizer.types.assign(40, TokenType::kNormal);
  for (const int control : {0, 7, 39})
    info.tokenizer.types[static_cast<size_t>(control)] = TokenType::kControl;
  return info;
}

std::vector<SequenceUpdate> OneIdAtATime(const SequenceRequest& request) {
  std::vector<SequenceUpdate> updates(static_cast<size_t>(request.max_tokens));
  for (SequenceUpdate& update : updates) update.ids = {1};
  updates.back().finished = true;
  updates.back().reason = FinishReason::kLength;
  return updates;
}

TEST(SequenceRunnerTest, PromptsAreTextOfTheLengthAskedForAndDiffer) {
  FakeTrunk trunk(Model());
  trunk.SetResponder(OneIdAtATime);
  SequenceRunner runner(&trunk, Model(), 1, kPatience);
  for (int rep = 0; rep < 2; ++rep) {
    const auto timelines = runner.Run({{33, 5}, {17, 1}, {33, 2}}, 3, AdmissionPolicy::kContinuous);
    ASSERT_TRUE(timelines.ok()) << timelines.status();
    ASSERT_EQ(timelines->size(), 3u);
    EXPECT_EQ((*timelines)[0].ids_s.size(), 5u);
    EXPECT_EQ((*timelines)[1].ids_s.size(), 1u);
    EXPECT_EQ((*timelines)[2].ids_s.size(), 2u);
    for (const Timeline& timeline : *timelines) {
      EXPECT_GE(timeline.ids_s.front(), timeline.submitted_s);
      EXPECT_TRUE(std::is_sorted(timeline.ids_s.begin(), timeline.ids_s.end()));
    }
  }
  std::set<std::vector<int32_t>> prompts;
  for (size_t i = 0; i < 6; ++i) {
    const SequenceRequest& request = trunk.WaitCall(i)->request();
    EXPECT_EQ(request.prompt.size(), i % 3 == 1 ? 17u : 33u);
    EXPECT_TRUE(request.stop_ids.empty());
    EXPECT_EQ(request.sampling.temperature, 0);
    for (const int32_t id : request.prompt) {
      EXPECT_TRUE(id > 0 && id < 39 && id != 7) << id;
    }
    prompts.insert(request.prompt);
  }
  EXPECT_EQ(prompts.size(), 6u);
}

TEST(SequenceRunnerTest, SameSeedSamePrompts) {
  std::vector<std::vector<int32_t>> prompts;
  for (const uint64_t seed : {4, 4, 5}) {
    FakeTrunk trunk(Model());
    trunk.SetResponder(OneIdAtATime);
    SequenceRunner runner(&trunk, Model(), seed, kPatience);
    ASSERT_TRUE(runner.Run({{20, 1}}, 1, AdmissionPolicy::kContinuous).ok());
    prompts.push_back(trunk.WaitCall(0)->request().prompt);
  }
  EXPECT_EQ(prompts[0], prompts[1]);
  EXPECT_NE(prompts[0], prompts[2]);
}

// Runs five sequences, two at a time, and lets them end in the order given; how many had been submitted when
// each ended.
std::vector<size_t> SubmittedAtEachEnd(AdmissionPolicy policy, const std::vector<size_t>& order,
                                       const std::vector<size_t>& wait_for) {
  FakeTrunk trunk(Model());
  SequenceRunner runner(&trunk, Model(), 1, kPatience);
  absl::StatusOr<std::vector<Timeline>> timelines = absl::UnknownError("not run");
  std::thread caller([&] { timelines = runner.Run(std::vector<SequenceSpec>(5, {4, 1}), 2, policy); });
  std::vector<size_t> submitted;
  for (size_t i = 0; i < order.size(); ++i) {
    trunk.WaitCall(wait_for[i]);
    submitted.push_back(trunk.calls());
    SequenceUpdate last;
    last.ids = {1};
    last.finished = true;
    last.reason = FinishReason::kLength;
    trunk.WaitCall(order[i])->Send(std::move(last));
  }
  caller.join();
  EXPECT_TRUE(timelines.ok()) << timelines.status();
  return submitted;
}

TEST(SequenceRunnerTest, ContinuousAdmissionFillsEachPlaceThatBecomesFree) {
  // 1 ends: 2 comes. 2 ends: 3 comes. 0 ends: 4 comes.
  EXPECT_EQ(SubmittedAtEachEnd(AdmissionPolicy::kContinuous, {1, 2, 0, 3, 4}, {1, 2, 3, 4, 4}),
            (std::vector<size_t>{2, 3, 4, 5, 5}));
}

TEST(SequenceRunnerTest, StaticAdmissionWaitsForTheWholeGroup) {
  EXPECT_EQ(SubmittedAtEachEnd(AdmissionPolicy::kStatic, {1, 0, 2, 3, 4}, {1, 1, 3, 3, 4}),
            (std::vector<size_t>{2, 2, 4, 4, 5}));
}

TEST(SequenceRunnerTest, TellsWhenAllDecode) {
  FakeTrunk trunk(Model());
  SequenceRunner runner(&trunk, Model(), 1, kPatience);
  std::thread answers([&] {
    trunk.WaitCall(1)->SendIds({1});
    trunk.WaitCall(0)->SendIds({1, 2});
    trunk.WaitCall(0)->Finish(FinishReason::kLength);
    trunk.WaitCall(1)->Finish(FinishReason::kLength);
  });
  int told = 0;
  const auto timelines = runner.Run({{4, 2}, {4, 2}}, 2, AdmissionPolicy::kContinuous, [&] { ++told; });
  answers.join();
  ASSERT_TRUE(timelines.ok()) << timelines.status();
  EXPECT_EQ(told, 1);
}

TEST(SequenceRunnerTest, ErrorsOfSequencesAreThoseOfTheRun) {
  FakeTrunk trunk(Model());
  trunk.SetResponder([](const SequenceRequest& request) {
    std::vector<SequenceUpdate> updates = OneIdAtATime(request);
    if (request.max_tokens == 3) {
      updates.back().status = absl::UnavailableError("no holder");
      updates.back().reason = FinishReason::kNone;
    }
    return updates;
  });
  SequenceRunner runner(&trunk, Model(), 1, kPatience);
  EXPECT_EQ(runner.Run({{4, 2}, {4, 3}, {4, 2}}, 1, AdmissionPolicy::kContinuous).status(),
            absl::UnavailableError("no holder"));
  trunk.SetStatus(absl::UnavailableError("gone"));
  EXPECT_EQ(runner.Run({{4, 2}}, 1, AdmissionPolicy::kContinuous).status(), absl::UnavailableError("gone"));
  EXPECT_EQ(runner.IdlePool().status(), absl::UnavailableError("gone"));
}

TEST(SequenceRunnerTest, APromptFromThePrefixCacheIsNoMeasurement) {
  FakeTrunk trunk(Model());
  trunk.SetResponder([](const SequenceRequest& request) {
    std::vector<SequenceUpdate> updates = OneIdAtATime(request);
    updates.front().cached_tokens = 16;
    return updates;
  });
  SequenceRunner runner(&trunk, Model(), 1, kPatience);
  const absl::Status status = runner.Run({{40, 2}}, 1, AdmissionPolicy::kContinuous).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("16 tokens"));
}

TEST(SequenceRunnerTest, RunsOutOfPatience) {
  FakeTrunk trunk(Model());
  SequenceRunner runner(&trunk, Model(), 1, absl::Milliseconds(1));
  EXPECT_EQ(runner.Run({{4, 2}}, 1, AdmissionPolicy::kContinuous).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  PoolInfo busy;
  busy.running = 3;
  trunk.SetPool(busy);
  const absl::Status status = runner.IdlePool().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(status.message()), HasSubstr("3 sequences run"));
}

TEST(TogetherTest, OneStream) { EXPECT_DOUBLE_EQ(*TogetherTokensPerSecond({{0, {10, 10.5, 11, 11.5}}}), 2); }

TEST(TogetherTest, RampsAndTailsDoNotCount) {
  // All decode from 3 to 6, at 1, 2 and 4 ids a second; before and after, at other speeds.
  const Timeline slow = {0, {0, 0.1, 0.2, 3.5, 4.5, 5.5, 9}};
  const Timeline middle = {0, {3, 3.5, 4, 4.5, 5, 5.5, 6}};
  const Timeline fast = {0,
                         {2.75, 3, 3.25, 3.5, 3.75, 4, 4.25, 4.5, 4.75, 5, 5.25, 5.5, 5.75, 6, 6.01, 6.02}};
  const auto rate = TogetherTokensPerSecond({slow, middle, fast});
  ASSERT_TRUE(rate.ok()) << rate.status();
  EXPECT_DOUBLE_EQ(*rate, 1 + 2 + 4);
}

TEST(TogetherTest, WhereStepsEndInTurnTheLastBurstCountsWhole) {
  // Four streams in steps of one second, whose ids come one after another within a step.
  std::vector<Timeline> timelines(4);
  for (int i = 0; i < 4; ++i) {
    for (int step = 0; step < 10; ++step) timelines[static_cast<size_t>(i)].ids_s.push_back(step + 0.01 * i);
  }
  EXPECT_NEAR(*TogetherTokensPerSecond(timelines), 4, 1e-9);
}

TEST(TogetherTest, SequencesThatHardlyMetAreRefused) {
  const auto apart = TogetherTokensPerSecond({{0, {1, 2, 3}}, {0, {4, 5, 6}}});
  EXPECT_EQ(apart.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(TogetherTokensPerSecond({{0, {1}}}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(TogetherTokensPerSecond({{0, {1, 2}}, {0, {}}}).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace moepool
