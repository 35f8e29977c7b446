// What becomes of a step's logits: sampling parameters through the engine, over a tiny synthetic model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/run_sequence.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

constexpr int kVocab = 300;

class EngineOutputTest : public EngineTest {
 protected:
  void SetUp() override {
    SynthSpec spec;
    spec.experts = 6;
    spec.experts_per_token = 2;
    spec.ffn = 64;
    spec.vocab = kVocab;
    spec.context = 256;
    Start(spec, {}, 1);
  }

  SequenceResult Run(const SequenceRequest& request) { return RunSequence(engine_.get(), request); }
};

TEST_F(EngineOutputTest, LogprobsGoWithTheirIds) {
  SequenceRequest request = Request(20, 12);
  const SequenceResult plain = Run(request);
  EXPECT_TRUE(plain.logprobs.empty());
  request.sampling.logprobs = true;
  request.sampling.top_logprobs = 3;
  const SequenceResult greedy = Run(request);
  EXPECT_EQ(greedy.ids, plain.ids);
  ASSERT_EQ(greedy.logprobs.size(), greedy.ids.size());
  SequenceRequest score = Request(20, 1);
  score.prompt.insert(score.prompt.end(), greedy.ids.begin(), greedy.ids.end());
  score.first_logits = 19;
  const std::vector<LogitsRow> rows = Run(score).logits;
  for (size_t i = 0; i < greedy.ids.size(); ++i) {
    const TokenLogprobs& got = greedy.logprobs[i];
    ASSERT_EQ(got.top.size(), 3u);
    EXPECT_EQ(got.top[0].id, greedy.ids[i]);
    EXPECT_EQ(got.top[0].logprob, got.logprob);
    EXPECT_LT(got.logprob, 0);
    // Differences of log-probabilities are those of the logits.
    const std::vector<float>& logits = rows[i].logits;
    for (const IdLogprob& top : got.top) {
      EXPECT_NEAR(got.logprob - top.logprob, logits[greedy.ids[i]] - logits[top.id], 1e-5);
    }
  }
}

TEST_F(EngineOutputTest, AnIdThatEndsTheSequenceHasNoLogprobs) {
  SequenceRequest request = Request(20, 12);
  request.sampling.logprobs = true;
  request.stop_ids = {Run(request).ids[4]};
  const SequenceResult result = Run(request);
  EXPECT_EQ(result.reason, FinishReason::kStop);
  EXPECT_LE(result.ids.size(), 4u);
  EXPECT_EQ(result.logprobs.size(), result.ids.size());
}

TEST_F(EngineOutputTest, StopIdsWaitForMinTokens) {
  const SequenceResult free_running = Run(Request(12, 10));
  SequenceRequest request = Request(12, 10);
  request.stop_ids = {free_running.ids[0]};
  EXPECT_TRUE(Run(request).ids.empty());
  for (const int32_t min_tokens : {1, 5, 10, 11}) {
    request.sampling.min_tokens = min_tokens;
    const SequenceResult result = Run(request);
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_GE(result.ids.size(), static_cast<size_t>(std::min(min_tokens, 10)));
    EXPECT_EQ(std::count(result.ids.begin(), result.ids.end(), request.stop_ids[0]), 0);
  }
}

TEST_F(EngineOutputTest, BiasForcesAndBans) {
  SequenceRequest request = Request(12, 6);
  request.sampling.logit_bias = {{123, 100}};
  EXPECT_EQ(Run(request).ids, std::vector<int32_t>(6, 123));
  const int32_t first = Run(Request(12, 6)).ids[0];
  request.sampling.logit_bias = {{first, -100}};
  const std::vector<int32_t> ids = Run(request).ids;
  EXPECT_EQ(ids.size(), 6u);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), first), 0);
}

TEST_F(EngineOutputTest, DryEndsARepetition) {
  SequenceRequest request = Request(12, 40);
  request.sampling.logit_bias = {{123, 50}};
  EXPECT_EQ(Run(request).ids, std::vector<int32_t>(40, 123));
  request.sampling.dry.multiplier = 1;
  const std::vector<int32_t> ids = Run(request).ids;
  // 1.75^(L - 2) outgrows the bias before a run of 12 is there.
  EXPECT_EQ(std::count(ids.begin(), ids.begin() + 4, 123), 4);
  EXPECT_NE(ids, std::vector<int32_t>(40, 123));
  EXPECT_NE(std::find_if(ids.begin(), ids.begin() + 12, [](int32_t id) { return id != 123; }),
            ids.begin() + 12);
}

TEST_F(EngineOutputTest, RefusesParametersThatDoNotFitTheModel) {
  const auto refused = [this](const SequenceRequest& request) {
    const SequenceResult result = Run(request);
    EXPECT_EQ(result.status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(result.status.message());
  };
  SequenceRequest request = Request(4, 4);
  request.sampling.logit_bias = {{kVocab, 1}};
  EXPECT_THAT(refused(request), HasSubstr("logit_bias[300] is for an id that is not in [0, 300)"));
  request = Request(4, 4);
  request.sampling.dry.breaker_ids = {-1};
  EXPECT_THAT(refused(request), HasSubstr("id -1"));
  request = Request(4, 4);
  request.stop_ids = {5, kVocab};
  EXPECT_THAT(refused(request), HasSubstr("stop id 300"));
  request = Request(4, 4);
  request.sampling.top_logprobs = 1;
  EXPECT_THAT(refused(request), HasSubstr("needs logprobs"));
}

}  // namespace
}  // namespace moepool
