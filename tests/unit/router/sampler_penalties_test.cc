// Steps 1 to 5 of Sample: what changes logits before the temperature does.
#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "router/sampler.h"
#include "tests/unit/router/sampler_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

TEST(SamplerPenaltiesTest, RepetitionPenaltyDividesPositiveAndMultipliesNegativeOnce) {
  SamplingParams p;
  p.repetition_penalty = 2;
  // 1 in the prompt (twice), 3 generated (twice), 0 in both, 4 untouched; 2 is zero.
  EXPECT_THAT(Penalised(p, {3, 4, 0, -1, 5, -kInf}, {1, 1, 0, 2, 5}, {3, 3, 0}),
              ElementsAre(1.5, 2, 0, -2, 5, -kInf));
  EXPECT_EQ(Pick(p, {3, 4}, 0, {1}).value(), 0);
  p.repetition_penalty = 0.5;
  EXPECT_THAT(Penalised(p, {3, -4}, {0, 1}, {}), ElementsAre(6, -2));
  p.repetition_penalty = 5e-324;
  const float max = std::numeric_limits<float>::max();
  EXPECT_THAT(Penalised(p, {3, -4, 1}, {0, 1}, {}), ElementsAre(max, -0.0f, 1));
}

TEST(SamplerPenaltiesTest, FrequencyAndPresencePenaltiesCountGeneratedIdsAlone) {
  SamplingParams p;
  p.frequency_penalty = 0.5;
  EXPECT_THAT(Penalised(p, {1, 1, 1, 1}, {0, 0, 3}, {1, 1, 1, 2}), ElementsAre(1, -0.5, 0.5, 1));
  p.frequency_penalty = 0;
  p.presence_penalty = 0.25;
  EXPECT_THAT(Penalised(p, {1, 1, 1, 1}, {0, 0, 3}, {1, 1, 1, 2}), ElementsAre(1, 0.75, 0.75, 1));
  p.frequency_penalty = -1;
  EXPECT_THAT(Penalised(p, {1, 1, 1, 1}, {0, 0, 3}, {1, 1, 1, 2}), ElementsAre(1, 3.75, 1.75, 1));
}

TEST(SamplerPenaltiesTest, PenaltiesComeInOrder) {
  SamplingParams p;
  p.repetition_penalty = 2;
  p.frequency_penalty = 1;
  p.presence_penalty = 0.5;
  // 4 / 2 - 2 * 1 - 0.5, and not (4 - 2.5) / 2.
  EXPECT_THAT(Penalised(p, {4, 1}, {}, {0, 0}), ElementsAre(-0.5, 1));
}

TEST(SamplerPenaltiesTest, IdsOutsideTheVocabularyAreInternalErrors) {
  SamplingParams repetition;
  repetition.repetition_penalty = 1.1;
  EXPECT_EQ(Pick(repetition, {1, 2}, 0, {2}).status().code(), absl::StatusCode::kInternal);
  SamplingParams presence;
  presence.presence_penalty = 1;
  EXPECT_EQ(Pick(presence, {1, 2}, 0, {}, {-1}).status().code(), absl::StatusCode::kInternal);
}

TEST(SamplerPenaltiesTest, ARepeatWindowIsTheSameForAllThree) {
  SamplingParams p;
  p.repetition_penalty = 2;
  p.frequency_penalty = 0.5;
  p.presence_penalty = 0.25;
  const std::vector<float> logits = {4, 4, 4, 4};
  const std::vector<int32_t> prompt = {0, 1, 1};
  const std::vector<int32_t> generated = {2, 1};
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(2, 1.25, 1.25, 4));
  p.repeat_last_n = -1;  // prompt ids are counted now, too
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(1.25, 0.25, 1.25, 4));
  p.repeat_last_n = 1000;
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(1.25, 0.25, 1.25, 4));
  p.repeat_last_n = 3;  // 1 2 1: one id of the prompt
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(4, 0.75, 1.25, 4));
  p.repeat_last_n = 1;
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(4, 1.25, 4, 4));
  p.repeat_last_n = 0;
  EXPECT_THAT(Penalised(p, logits, prompt, generated), ElementsAre(4, 4, 4, 4));
}

TEST(SamplerPenaltiesTest, BiasesAreAddedBeforePenalties) {
  SamplingParams p;
  p.logit_bias = {{0, -100}, {2, 1.5}, {3, 100}};
  EXPECT_THAT(Penalised(p, {1, 2, 3, -kInf}, {}, {}), ElementsAre(-99, 2, 4.5, -kInf));
  p.repetition_penalty = 2;
  EXPECT_THAT(Penalised(p, {1, 2, 3, 0}, {0, 2}, {}), ElementsAre(-198, 2, 2.25, 100));
  EXPECT_EQ(Pick(p, {90, 0, 0, 0}).value(), 3);
  p = {};
  p.logit_bias = {{1, 0.5}};
  const float max = std::numeric_limits<float>::max();
  EXPECT_THAT(Penalised(p, {-max, max}, {}, {}), ElementsAre(-max, max));
  p.logit_bias = {{2, 0.5}};
  EXPECT_EQ(Pick(p, {1, 2}).status().code(), absl::StatusCode::kInternal);
}

TEST(SamplerPenaltiesTest, ABiasShiftsTheOdds) {
  // Three ids of equal logits; ln 2 more for one doubles its odds.
  SamplingParams p;
  p.temperature = 1;
  p.seed = 31;
  p.logit_bias = {{1, std::log(2.0)}};
  int second = 0;
  constexpr int kDraws = 40000;
  for (int i = 0; i < kDraws; ++i) second += Pick(p, {0.5f, 0.5f, 0.5f}, i).value() == 1;
  const double expected = kDraws / 2.0;
  const double chi = 2 * (second - expected) * (second - expected) / expected;
  EXPECT_LT(chi, 10.8) << second << " of " << kDraws;  // 1 degree of freedom, p = 0.001
}

TEST(SamplerPenaltiesTest, StopIdsWaitForMinTokens) {
  SamplingParams p;
  p.min_tokens = 2;
  p.logit_bias = {{1, 100}};
  EXPECT_EQ(Pick(p, {1, 2, 0}, 0, {}, {}, {1, 2}).value(), 0);
  EXPECT_EQ(Pick(p, {1, 2, 0}, 0, {}, {0}, {1, 2}).value(), 0);
  EXPECT_EQ(Pick(p, {1, 2, 0}, 0, {}, {0, 0}, {1, 2}).value(), 1);
  EXPECT_EQ(Pick(p, {1, 2, 0}, 0, {}, {}, {}).value(), 1);
  p.temperature = 1e6;
  p.logit_bias = {};
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Pick(p, {1, 2, 0}, i, {}, {}, {0, 2}).value(), 1);
  const auto none = Pick(p, {1, 2}, 0, {}, {}, {0, 1});
  EXPECT_EQ(none.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("none of 2 logits"));
  EXPECT_EQ(Pick(p, {1, 2}, 0, {}, {}, {2}).status().code(), absl::StatusCode::kInternal);
}

DryParams Dry(double multiplier, double base, int32_t allowed_length, int32_t penalty_last_n) {
  DryParams dry;
  dry.multiplier = multiplier;
  dry.base = base;
  dry.allowed_length = allowed_length;
  dry.penalty_last_n = penalty_last_n;
  return dry;
}

std::vector<float> WithDry(const DryParams& dry, const std::vector<float>& logits,
                           const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated = {}) {
  SamplingParams p;
  p.dry = dry;
  EXPECT_TRUE(ValidateSampling(p).ok());
  return Penalised(p, logits, prompt, generated);
}

// The cases by which llama.cpp tests its own (commit 0c1e57098), as losses of logits.
TEST(DryTest, CasesOfLlamaCpp) {
  const std::vector<float> four(4, 0), five(5, 0);
  EXPECT_EQ(WithDry(Dry(1, 1.1, 2, 4), four, {0, 1}), four);
  EXPECT_THAT(WithDry(Dry(1, 1.1, 2, 5), four, {0, 1, 2, 0, 1}), ElementsAre(0, 0, -1, 0));
  DryParams broken = Dry(1, 1.1, 2, 6);
  broken.breaker_ids = {3};
  EXPECT_EQ(WithDry(broken, five, {0, 1, 3, 4, 0, 1}), five);
  EXPECT_THAT(WithDry(Dry(2, 1.1, 2, 5), five, {0, 1, 2, 0, 1}), ElementsAre(0, 0, -2, 0, 0));
  EXPECT_EQ(WithDry(Dry(1, 1.1, 4, 7), five, {0, 1, 2, 3, 4, 0, 1}), five);
}

TEST(DryTest, GrowsWithTheRepetition) {
  const std::vector<float> zero(10, 0);
  // 1 2 3 4 5, then 1 2 3 4 again: 5 would be the fifth of a repetition of four.
  EXPECT_THAT(WithDry(Dry(0.5, 2, 2, -1), zero, {1, 2, 3, 4, 5}, {1, 2, 3, 4}),
              ElementsAre(0, 0, 0, 0, 0, -2, 0, 0, 0, 0));  // 0.5 * 2^(4 - 2)
  EXPECT_EQ(WithDry(Dry(0.5, 2, 5, -1), zero, {1, 2, 3, 4, 5, 1, 2, 3, 4}), zero);
  EXPECT_EQ(WithDry(Dry(0.5, 2, 2, 0), zero, {1, 2, 3, 4, 5, 1, 2, 3, 4}), zero);
  EXPECT_EQ(WithDry(Dry(0, 2, 2, -1), zero, {1, 2, 3, 4, 5, 1, 2, 3, 4}), zero);
  // The window cuts the first 1 off.
  EXPECT_EQ(WithDry(Dry(0.5, 2, 2, 8), zero, {1, 2, 3, 4, 5, 1, 2, 3, 4})[5], -1);
  // A run repeats itself at every shift; the longest counts.
  EXPECT_EQ(WithDry(Dry(1, 2, 1, -1), zero, {7, 7, 7, 7})[7], -4);
}

// Against a search that tries every breaker everywhere: breakers of few ids share long beginnings.
TEST(DryTest, TheNewestBreakerEndsTheRepetition) {
  std::mt19937 random(20261124);
  const auto draw = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  int broken = 0;
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids(static_cast<size_t>(draw(1, 40)));
    for (int32_t& id : ids) id = draw(0, 2);
    DryParams dry = Dry(1, 2, 1, -1);
    std::set<std::vector<int32_t>> sequences;
    for (int i = draw(0, 6); i > 0; --i) {
      std::vector<int32_t> sequence(static_cast<size_t>(draw(2, 6)));
      for (int32_t& id : sequence) id = draw(0, 2);
      sequences.insert(std::move(sequence));
    }
    dry.breaker_sequences.assign(sequences.begin(), sequences.end());
    if (draw(0, 9) == 0) dry.breaker_ids = {2};
    // The breaker that begins last counts, and of those that begin there the longest.
    size_t after = 0;
    for (size_t begin = ids.size(); begin-- > 0 && after == 0;) {
      if (!dry.breaker_ids.empty() && ids[begin] == 2) after = begin + 1;
      for (const auto& sequence : sequences) {
        if (begin + sequence.size() <= ids.size() &&
            std::equal(sequence.begin(), sequence.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin))) {
          after = std::max(after, begin + sequence.size());
        }
      }
    }
    broken += after > 0;
    std::vector<float> expected(3, 0);
    for (size_t end = 1; end < ids.size(); ++end) {  // ids[end] followed a repetition that ended before it
      size_t length = 0;
      while (length < end && length < ids.size() - after &&
             ids[end - 1 - length] == ids[ids.size() - 1 - length]) {
        ++length;
      }
      if (length == 0 || (!dry.breaker_ids.empty() && ids[end] == 2)) continue;
      float& loss = expected[static_cast<size_t>(ids[end])];
      loss = std::min(loss, -std::ldexp(1.0f, static_cast<int>(length) - 1));
    }
    EXPECT_EQ(WithDry(dry, std::vector<float>(3, 0), ids), expected) << "round " << round;
  }
  EXPECT_GT(broken, 500);
}

TEST(DryTest, LongRepetitionsStayFinite) {
  const std::vector<int32_t> run(5000, 1);
  const float lowest = -std::numeric_limits<float>::max();
  EXPECT_THAT(WithDry(Dry(100, 100, 0, -1), {3, 3}, run), ElementsAre(3, lowest));
  EXPECT_THAT(WithDry(Dry(2, 1, 2, -1), {3, 3}, run), ElementsAre(3, 1));
}

TEST(DryTest, BreakersEndRepetitions) {
  const std::vector<float> zero(12, 0);
  const std::vector<int32_t> text = {1, 2, 3, 4, 5, 1, 2, 3, 4};
  DryParams dry = Dry(1, 2, 1, -1);
  dry.breaker_ids = {2};
  EXPECT_EQ(WithDry(dry, zero, text)[5], -2);  // 3 4, after the breaker
  dry.breaker_ids = {4};
  EXPECT_EQ(WithDry(dry, zero, text), zero);
  dry.breaker_ids = {5};  // a breaker is never penalised
  EXPECT_EQ(WithDry(dry, zero, text), zero);
  dry.breaker_ids = {};
  dry.breaker_sequences = {{2, 3}};
  EXPECT_EQ(WithDry(dry, zero, text)[5], -1);  // 4
  dry.breaker_sequences = {{2, 3}, {2, 3, 4}, {2, 9}};
  EXPECT_EQ(WithDry(dry, zero, text), zero);  // the longest of those that begin at 2
  dry.breaker_sequences = {{4, 5}};  // begun, not yet complete; the one before lies beyond the repetition
  EXPECT_EQ(WithDry(dry, zero, text)[5], -8);
}

// The definition, word by word: for every id, the longest suffix of the text that stands before it somewhere.
std::vector<float> SlowDry(const DryParams& dry, std::vector<float> logits, std::vector<int32_t> text) {
  if (dry.penalty_last_n >= 0 && text.size() > static_cast<size_t>(dry.penalty_last_n)) {
    text.erase(text.begin(), text.end() - dry.penalty_last_n);
  }
  const int n = static_cast<int>(text.size());
  if (n <= dry.allowed_length) return logits;
  std::vector<std::vector<int32_t>> breakers = dry.breaker_sequences;
  for (const int32_t id : dry.breaker_ids) breakers.push_back({id});
  int limit = n;
  bool found = false;
  for (int begin = n - 1; begin >= 0 && !found; --begin) {
    int end = -1;
    for (const auto& b : breakers) {
      const int size = static_cast<int>(b.size());
      if (begin + size <= n && std::equal(b.begin(), b.end(), text.begin() + begin)) {
        end = std::max(end, begin + size);
      }
    }
    found = end >= 0;
    if (found) limit = n - end;
  }
  if (limit < dry.allowed_length) return logits;
  std::map<int32_t, int> longest;
  for (int end = 1; end < n; ++end) {  // text[end] follows a suffix of text[0, end)
    int length = 0;
    while (length < std::min(end, limit) && text[end - 1 - length] == text[n - 1 - length]) ++length;
    if (length < dry.allowed_length) continue;
    const auto [it, added] = longest.emplace(text[end], length);
    if (!added) it->second = std::max(it->second, length);
  }
  for (const auto& [id, length] : longest) {
    if (std::count(dry.breaker_ids.begin(), dry.breaker_ids.end(), id) > 0) continue;
    logits[id] -= static_cast<float>(dry.multiplier * std::pow(dry.base, length - dry.allowed_length));
  }
  return logits;
}

TEST(DryTest, EqualsTheDefinitionOnRandomTexts) {
  constexpr uint32_t kSeed = 20240917;
  SCOPED_TRACE(kSeed);
  std::mt19937 random(kSeed);
  int touched = 0;
  for (int round = 0; round < 3000; ++round) {
    const int vocab = 2 + static_cast<int>(random() % 6);
    std::vector<int32_t> text(random() % 40);
    for (int32_t& id : text) id = static_cast<int32_t>(random() % vocab);
    DryParams dry = Dry(0.25 + random() % 4, 1 + (random() % 8) * 0.125, static_cast<int>(random() % 4),
                        static_cast<int>(random() % 45) - 1);
    for (int32_t id = 0; id < vocab; ++id) {
      if (random() % 8 == 0) dry.breaker_ids.push_back(id);
    }
    for (uint32_t i = random() % 4; i > 0; --i) {
      auto& sequence = dry.breaker_sequences.emplace_back(2 + random() % 3);
      for (int32_t& id : sequence) id = static_cast<int32_t>(random() % vocab);
    }
    std::sort(dry.breaker_sequences.begin(), dry.breaker_sequences.end());
    std::vector<float> logits(vocab);
    for (float& x : logits) x = static_cast<float>(random() % 100) / 8;
    const size_t cut = text.empty() ? 0 : random() % text.size();
    const std::vector<float> got =
        WithDry(dry, logits, {text.begin(), text.begin() + cut}, {text.begin() + cut, text.end()});
    ASSERT_THAT(got, Pointwise(FloatNear(1e-3f), SlowDry(dry, logits, text))) << "round " << round;
    touched += got != logits;
  }
  EXPECT_GT(touched, 1000);
}

TEST(DryTest, ComesAfterThePenalties) {
  SamplingParams p;
  p.dry = Dry(1, 2, 1, -1);
  p.repetition_penalty = 2;
  EXPECT_THAT(Penalised(p, {4, 4, 4}, {0, 1}, {0}), ElementsAre(2, 1, 4));  // 4 / 2 - 1
}

TEST(DryTest, IdsOutsideTheVocabularyAreInternalErrors) {
  SamplingParams p;
  p.dry = Dry(1, 2, 1, -1);
  EXPECT_EQ(Pick(p, {1, 2}, 0, {0, 2}).status().code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace moepool
