// What the model gives the ids of a prompt: the same as its logits say, however the prompt is computed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "router/sampler.h"
#include "tests/support/run_sequence.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

// The real scheduler; what runs is preempted after every other step, wherever it stands.
class EveryOtherStep final : public Scheduler {
 public:
  explicit EveryOtherStep(const SchedulerLimits& limits) : inner_(MakeContinuousBatching(limits)) {}
  StepPlan Plan(const SchedulerSnapshot& snapshot) const override {
    StepPlan plan = inner_->Plan(snapshot);
    if (snapshot.running.empty() || ++plans_ % 2 != 0) return plan;
    plan = StepPlan();
    for (const SequenceView& s : snapshot.running) plan.preempted.push_back(s.id);
    return plan;
  }

 private:
  const std::unique_ptr<Scheduler> inner_;
  mutable int plans_ = 0;
};

class PromptLogprobsTest : public EngineTest {
 protected:
  SequenceResult Run(const SequenceRequest& request) { return RunSequence(engine_.get(), request); }

  static SequenceRequest WithLogprobs(int prompt, int max_tokens, int top) {
    SequenceRequest request = Request(prompt, max_tokens);
    request.prompt_logprobs = true;
    request.sampling.logprobs = top > 0;
    request.sampling.top_logprobs = top;
    return request;
  }

  // What the prompt's logits, as Score gives them, say of each id but the first.
  std::vector<TokenLogprobs> FromScore(const SequenceRequest& request) {
    SequenceRequest score = request;
    score.prompt_logprobs = false;
    score.first_logits = 0;
    const std::vector<LogitsRow> rows = Run(score).logits;
    std::vector<TokenLogprobs> expected;
    for (size_t i = 1; i < rows.size(); ++i) {
      expected.push_back(
          LogprobsOf(rows[i - 1].logits, request.prompt[i], request.sampling.top_logprobs).value());
    }
    return expected;
  }

  static void ExpectEqual(const std::vector<TokenLogprobs>& got, const std::vector<TokenLogprobs>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].logprob, expected[i].logprob) << i;
      ASSERT_EQ(got[i].top.size(), expected[i].top.size());
      for (size_t j = 0; j < got[i].top.size(); ++j) {
        EXPECT_EQ(got[i].top[j].id, expected[i].top[j].id);
        EXPECT_EQ(got[i].top[j].logprob, expected[i].top[j].logprob);
      }
    }
  }
};

TEST_F(PromptLogprobsTest, AreThoseOfTheLogits) {
  Start(MixtralSpec());
  for (const int top : {0, 3}) {
    const SequenceRequest request = WithLogprobs(70, 5, top);
    const std::vector<TokenLogprobs> expected = FromScore(request);
    const SequenceResult result = Run(request);
    EXPECT_TRUE(result.status.ok()) << result.status;
    ExpectEqual(result.prompt_logprobs, expected);
    EXPECT_EQ(result.ids, Run(Request(70, 5)).ids);
    EXPECT_EQ(result.logprobs.size(), top > 0 ? 5u : 0u);
    for (const TokenLogprobs& logprobs : result.prompt_logprobs) EXPECT_LT(logprobs.logprob, 0);
  }
}

TEST_F(PromptLogprobsTest, ChunksAndNeighboursDoNotShow) {
  Start(MixtralSpec());
  const SequenceRequest request = WithLogprobs(150, 1, 2);
  const std::vector<TokenLogprobs> expected = FromScore(request);
  ASSERT_EQ(expected.size(), 149u);
  for (const int budget : {1, 7, 32, 33, 150}) {
    EngineOptions options;
    options.limits.token_budget = budget;
    engine_.reset();
    Start(MixtralSpec(), options);
    Collector neighbour;
    const auto call = engine_->Generate(Request(20, 100), neighbour.Callback());
    ExpectEqual(Run(request).prompt_logprobs, expected);
  }
}

TEST_F(PromptLogprobsTest, TheCacheIsLeftAloneButFilled) {
  Start(MixtralSpec());
  Run(Request(64, 1));
  const SequenceRequest request = WithLogprobs(64, 3, 0);
  const SequenceResult result = Run(request);
  EXPECT_EQ(result.cached_tokens, 0);
  EXPECT_EQ(result.prompt_logprobs.size(), 63u);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_EQ(engine_->Stats().prefix_queries, 64u);  // of the first
  EXPECT_EQ(engine_->Stats().prefix_hits, 0u);
  EXPECT_EQ(Run(Request(64, 1)).cached_tokens, 48);
}

TEST_F(PromptLogprobsTest, NoTokensNeedBeGenerated) {
  Start(MixtralSpec());
  for (const int prompt : {1, 2, 40}) {
    const SequenceResult result = Run(WithLogprobs(prompt, 0, 1));
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_EQ(result.reason, FinishReason::kLength);
    EXPECT_TRUE(result.ids.empty());
    ExpectEqual(result.prompt_logprobs, Run(WithLogprobs(prompt, 4, 1)).prompt_logprobs);
    EXPECT_EQ(result.prompt_logprobs.size(), static_cast<size_t>(prompt - 1));
  }
  EXPECT_EQ(Run(WithLogprobs(256, 0, 0)).prompt_logprobs.size(), 255u);  // the whole context
  EXPECT_THAT(std::string(Run(Request(4, 0)).status.message()),
              HasSubstr("max_tokens is 0, must be at least 1"));
  EXPECT_THAT(std::string(Run(WithLogprobs(4, -1, 0)).status.message()), HasSubstr("must be at least 0"));
  SequenceRequest both = WithLogprobs(4, 1, 0);
  both.first_logits = 0;
  EXPECT_THAT(std::string(Run(both).status.message()), HasSubstr("both asked for"));
}

TEST_F(PromptLogprobsTest, PreemptedInThePromptNoneIsMissingOrGivenTwice) {
  Start(MixtralSpec());
  const SequenceRequest request = WithLogprobs(150, 6, 2);
  const std::vector<TokenLogprobs> expected = FromScore(request);
  const std::vector<int32_t> ids = Run(request).ids;
  EngineOptions options;
  options.limits.token_budget = 40;
  options.make_scheduler = [](const SchedulerLimits& limits) {
    return std::make_unique<EveryOtherStep>(limits);
  };
  engine_.reset();
  Start(MixtralSpec(), options);
  const SequenceResult result = Run(request);
  ExpectEqual(result.prompt_logprobs, expected);
  EXPECT_EQ(result.ids, ids);
  EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
  EXPECT_GE(engine_->Stats().preemptions, 3u);
}

}  // namespace
}  // namespace moepool
