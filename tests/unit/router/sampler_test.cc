#include "router/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/router/sampler_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int> Histogram(const SamplingParams& params, const std::vector<float>& logits, int draws) {
  std::vector<int> counts(logits.size(), 0);
  for (int i = 0; i < draws; ++i) {
    const auto id = Pick(params, logits, i);
    EXPECT_TRUE(id.ok()) << id.status();
    if (id.ok()) ++counts[*id];
  }
  return counts;
}

double ChiSquare(const std::vector<int>& counts, const std::vector<double>& probability) {
  const double draws = std::accumulate(counts.begin(), counts.end(), 0.0);
  double chi = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = draws * probability[i];
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << "id " << i;
    } else {
      chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
  }
  return chi;
}

std::vector<double> Probabilities(const std::vector<float>& logits, double temperature,
                                  const std::set<int>& kept) {
  std::vector<double> p(logits.size(), 0);
  double total = 0;
  for (int i : kept) total += p[i] = std::exp(logits[i] / temperature);
  for (double& x : p) x /= total;
  return p;
}

// Which ids come up in 2000 draws at a temperature so high that all kept ones do.
std::set<int> Kept(SamplingParams params, const std::vector<float>& logits) {
  const std::vector<int> counts = Histogram(params, logits, 2000);
  std::set<int> kept;
  for (size_t i = 0; i < counts.size(); ++i) {
    if (counts[i] > 0) kept.insert(static_cast<int>(i));
  }
  return kept;
}

// Known answers published with Random123 (kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  const uint32_t f = 0xffffffff;
  EXPECT_THAT(Philox4x32({f, f, f, f}, {f, f}), ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

TEST(PhiloxTest, BitsAreTheLowWords) {
  EXPECT_EQ(CounterBits(0, 0), 0xe169c58d6627e8d5);
  EXPECT_NE(CounterBits(0, uint64_t{1} << 32), CounterBits(0, 0));
  EXPECT_NE(CounterBits(uint64_t{1} << 32, 0), CounterBits(0, 0));
}

TEST(PhiloxTest, BitsAreUniform) {
  constexpr int kDraws = 100000;
  std::vector<int> counts(100, 0);
  for (int i = 0; i < kDraws; ++i) {
    ++counts[(CounterBits(42, i) >> 32) * 100 >> 32];
  }
  EXPECT_LT(ChiSquare(counts, std::vector<double>(100, 0.01)), 149);  // 99 degrees of freedom, p = 0.001
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowerIdOnATie) {
  EXPECT_EQ(Pick({}, {1, 3, 2, 3}).value(), 1);
  EXPECT_EQ(Pick({}, {-kInf, -5, -kInf, -4}).value(), 3);
  EXPECT_EQ(Pick({}, {-0.0f, 0.0f}).value(), 0);
  EXPECT_EQ(Pick({}, {7}).value(), 0);
  SamplingParams top1;
  top1.temperature = 5;
  top1.top_k = 1;
  for (int i = 0; i < 50; ++i) EXPECT_EQ(Pick(top1, {1, 3, 2, 3}, i).value(), 1);
}

TEST(SamplerTest, TemperatureScalesTheDistribution) {
  const std::vector<float> logits = {0.5f, -1, 2, 1.25f, -kInf, 0};
  for (double temperature : {0.5, 1.0, 2.5}) {
    SamplingParams p;
    p.temperature = temperature;
    p.seed = 1234;
    const auto counts = Histogram(p, logits, 40000);
    EXPECT_LT(ChiSquare(counts, Probabilities(logits, temperature, {0, 1, 2, 3, 5})),
              18.5)  // 4 degrees, p = 0.001
        << "temperature " << temperature;
  }
}

TEST(SamplerTest, ExtremeTemperatures) {
  SamplingParams p;
  p.temperature = 1e-6;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Pick(p, {10, 10.001f, -1000, 9}, i).value(), 1);
  p.temperature = 5e-324;
  for (int i = 0; i < 100; ++i) EXPECT_EQ(Pick(p, {3e38f, -3e38f, 1}, i).value(), 0);
  p.temperature = 1e6;
  const auto counts = Histogram(p, {10, -10, 50, 0, -kInf}, 20000);
  EXPECT_LT(ChiSquare(counts, {0.25, 0.25, 0.25, 0.25, 0}), 16.3);  // 3 degrees, p = 0.001
}

TEST(SamplerTest, TopKKeepsTheBestAndBreaksTiesByLowerId) {
  SamplingParams p;
  p.temperature = 1e6;
  p.top_k = 3;
  EXPECT_EQ(Kept(p, {1, 2, 1, 5, 1, 0}), (std::set<int>{0, 1, 3}));
  p.top_k = 2;
  EXPECT_EQ(Kept(p, {-1, -1, -1, -1}), (std::set<int>{0, 1}));
  p.top_k = 100;
  EXPECT_EQ(Kept(p, {1, 2, -kInf}), (std::set<int>{0, 1}));
  p.temperature = 1;
  p.top_k = 3;
  const std::vector<float> logits = {1, 2, 1, 0.5f, 1, 0};
  EXPECT_LT(ChiSquare(Histogram(p, logits, 30000), Probabilities(logits, 1, {0, 1, 2})), 13.8);
}

TEST(SamplerTest, TopPKeepsTheSmallestPrefixThatReachesIt) {
  // Equal weights sum exactly: eight of 1/8.
  SamplingParams p;
  p.temperature = 1;
  const std::vector<float> equal(8, 1.0f);
  p.top_p = 0.5;
  EXPECT_EQ(Kept(p, equal), (std::set<int>{0, 1, 2, 3}));
  p.top_p = 0.51;
  EXPECT_EQ(Kept(p, equal), (std::set<int>{0, 1, 2, 3, 4}));
  p.top_p = 1e-9;
  EXPECT_EQ(Kept(p, equal), (std::set<int>{0}));
  // Probabilities near 0.665, 0.245, 0.090.
  p.top_p = 0.66;
  EXPECT_EQ(Kept(p, {0, 2, 1}), (std::set<int>{1}));
  p.top_p = 0.67;
  EXPECT_EQ(Kept(p, {0, 2, 1}), (std::set<int>{1, 2}));
  p.top_p = 0.92;
  EXPECT_EQ(Kept(p, {0, 2, 1}), (std::set<int>{0, 1, 2}));
}

TEST(SamplerTest, TopPCountsAmongTheTopK) {
  SamplingParams p;
  p.temperature = 1;
  p.top_k = 2;
  p.top_p = 0.5;
  EXPECT_EQ(Kept(p, std::vector<float>(8, 1.0f)), (std::set<int>{0}));  // half of two, not of eight
}

TEST(SamplerTest, TopPOverManyRuns) {
  SamplingParams p;
  p.temperature = 1;
  p.top_p = 0.75;
  const std::vector<float> logits(4096, 0.0f);
  std::vector<int> counts = Histogram(p, logits, 600);
  EXPECT_TRUE(std::all_of(counts.begin() + 3072, counts.end(), [](int n) { return n == 0; }));
  EXPECT_GT(std::accumulate(counts.begin() + 2048, counts.begin() + 3072, 0), 150);
}

TEST(SamplerTest, MinPIsRelativeToTheLargest) {
  SamplingParams p;
  p.temperature = 1;
  p.min_p = 0.3;  // ln 0.3 = -1.204
  EXPECT_EQ(Kept(p, {3, 1.9f, 1.7f, 3, -kInf}), (std::set<int>{0, 1, 3}));
  p.temperature = 2;  // after the temperature: differences up to 2.408 stay
  EXPECT_EQ(Kept(p, {3, 1.9f, 0.7f, 0.5f}), (std::set<int>{0, 1, 2}));
  p.min_p = 1;
  EXPECT_EQ(Kept(p, {3, 3, 2.9f}), (std::set<int>{0, 1}));
}

TEST(SamplerTest, FiltersThatKeepAllChangeNothing) {
  constexpr uint32_t kSeed = 99;
  std::mt19937 rng(kSeed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(777);
  for (float& x : logits) x = normal(rng);
  SamplingParams plain;
  plain.temperature = 1;
  plain.seed = 5;
  SamplingParams wide = plain;
  wide.top_k = 777;
  wide.top_p = std::nextafter(1.0, 0.0);
  wide.min_p = 1e-30;
  for (int i = 0; i < 500; ++i) EXPECT_EQ(Pick(plain, logits, i).value(), Pick(wide, logits, i).value());
}

// Against a slow reference that sorts everything.
TEST(SamplerTest, KeepsWhatASortedReferenceKeeps) {
  constexpr uint32_t kSeed = 2024;
  std::mt19937 rng(kSeed);
  for (int round = 0; round < 60; ++round) {
    const int vocab = 1 + rng() % 40;
    std::vector<float> logits(vocab);
    for (float& x : logits) x = static_cast<float>(rng() % 9) * 0.25f;  // many ties
    SamplingParams p;
    p.temperature = 1;
    p.top_k = rng() % 3 == 0 ? 0 : 1 + rng() % 20;
    p.top_p = rng() % 3 == 0 ? 1 : 0.05 + 0.9 * (rng() % 1000) / 1000;
    p.min_p = rng() % 3 == 0 ? 0 : 0.5 * (rng() % 1000) / 1000;

    std::vector<int> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    if (p.top_k > 0 && p.top_k < vocab) order.resize(p.top_k);
    double total = 0;
    for (int id : order) total += std::exp(logits[id]);
    std::set<int> expected;
    double reached = 0;
    for (int id : order) {
      if (p.top_p < 1 && reached >= p.top_p * total) break;
      reached += std::exp(logits[id]);
      if (std::exp(logits[id] - logits[order[0]]) >= p.min_p) expected.insert(id);
    }
    EXPECT_EQ(Kept(p, logits), expected) << "seed " << kSeed << " round " << round << " top_k " << p.top_k
                                         << " top_p " << p.top_p << " min_p " << p.min_p;
  }
}

TEST(SamplerTest, ParametersAreRoundedAgainstWhatTheyWouldKeep) {
  SamplingParams p;
  p.temperature = 5e-324;
  p.top_p = std::nextafter(1.0, 0.0);
  p.min_p = 0.1;  // less than the float nearest to it
  p.top_k = 3;
  EXPECT_EQ(PickParamsOf(p, 0).temperature, std::numeric_limits<float>::min());
  EXPECT_EQ(PickParamsOf(p, 0).top_p, ~uint64_t{0} << 11);
  EXPECT_EQ(PickParamsOf(p, 0).min_p, 0.1f);
  EXPECT_EQ(PickParamsOf(p, 0).top_k, 3);
  p.temperature = 1e300;
  p.top_p = 5e-324;
  p.min_p = 0.7;  // more than the float nearest to it
  EXPECT_EQ(PickParamsOf(p, 0).temperature, std::numeric_limits<float>::max());
  EXPECT_EQ(PickParamsOf(p, 0).top_p, 1u);
  EXPECT_EQ(PickParamsOf(p, 0).min_p, std::nextafter(0.7f, 1.0f));
  p.top_p = 1;
  EXPECT_EQ(PickParamsOf(p, 0).top_p, 0u);
  p.min_p = 1;
  EXPECT_EQ(PickParamsOf(p, 0).min_p, 1.0f);
}

TEST(SamplerTest, WhatNeedsLogits) {
  SamplingParams plain;
  plain.temperature = 1, plain.top_k = 5, plain.top_p = 0.5, plain.min_p = 0.1;
  const std::vector<int32_t> ids = {1, 2};
  const std::vector<uint64_t> mask = {~uint64_t{0}};
  EXPECT_FALSE(NeedsLogits(plain, {ids, ids, ids}));
  const auto with = [&](const auto& change) {
    SamplingParams p = plain;
    SampleContext context = {ids, ids, ids};
    change(&p, &context);
    return NeedsLogits(p, context);
  };
  using P = SamplingParams*;
  using C = SampleContext*;
  EXPECT_TRUE(with([](P p, C) { p->logprobs = true; }));
  EXPECT_TRUE(with([](P p, C) { p->logit_bias = {{0, 1.0f}}; }));
  EXPECT_TRUE(with([](P p, C) { p->repetition_penalty = 1.1; }));
  EXPECT_TRUE(with([](P p, C) { p->frequency_penalty = 0.1; }));
  EXPECT_TRUE(with([](P p, C) { p->presence_penalty = -0.1; }));
  EXPECT_TRUE(with([](P p, C) { p->dry.multiplier = 0.1; }));
  EXPECT_TRUE(with([](P p, C) { p->min_tokens = 3; }));
  EXPECT_TRUE(with([](P, C c) { c->may_stop = false; }));
  EXPECT_TRUE(with([](P, C c) { c->forced_id = 0; }));
  EXPECT_TRUE(with([&](P, C c) { c->allowed = mask; }));
  EXPECT_FALSE(with([](P p, C) { p->min_tokens = 2; }));
  EXPECT_FALSE(with([](P p, C c) { p->min_tokens = 3, c->stop_ids = {}; }));
}

TEST(SamplerTest, OutputsDependOnSeedAndIndexAlone) {
  SamplingParams p;
  p.temperature = 1;
  p.seed = 77;
  const std::vector<float> logits(1000, 0.0f);
  std::vector<int32_t> forward(200);
  for (int i = 0; i < 200; ++i) forward[i] = Pick(p, logits, i).value();
  for (int i = 199; i >= 0; --i) {
    SamplingParams other = p;
    other.seed = i;
    ASSERT_TRUE(Pick(other, logits, 3).ok());
    EXPECT_EQ(Pick(p, logits, i).value(), forward[i]);
  }
  p.seed = 78;
  int same = 0;
  for (int i = 0; i < 200; ++i) same += Pick(p, logits, i).value() == forward[i];
  EXPECT_LT(same, 10);
}

// Logits are looked through in runs of 256: the best may stand anywhere, and the lower id wins across runs.
TEST(SamplerTest, FindsTheBestOfAnyRun) {
  SamplingParams p;
  for (const size_t vocab : {255u, 256u, 257u, 1000u}) {
    for (const size_t at : {size_t{0}, size_t{17}, vocab / 2, vocab - 1}) {
      std::vector<float> logits(vocab, -1.0f);
      logits[at] = 2;
      const auto id = Pick(p, logits);
      ASSERT_TRUE(id.ok()) << id.status();
      EXPECT_EQ(*id, static_cast<int32_t>(at)) << vocab;
      logits[vocab - 1] = 2;
      EXPECT_EQ(*Pick(p, logits), static_cast<int32_t>(at)) << vocab;
      logits[vocab - 1 - at / 2] = std::numeric_limits<float>::quiet_NaN();
      EXPECT_EQ(Pick(p, logits).status().code(), absl::StatusCode::kInternal) << vocab << ", " << at;
    }
  }
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreInternalErrors) {
  for (double temperature : {0.0, 1.0}) {
    SamplingParams p;
    p.temperature = temperature;
    p.top_k = 2;
    const auto nan = Pick(p, {1, 2, kNan, 3});
    EXPECT_EQ(nan.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(nan.status().message()), HasSubstr("token 2 is nan"));
    EXPECT_EQ(Pick(p, {kNan}).status().code(), absl::StatusCode::kInternal);
    EXPECT_EQ(Pick(p, {1, kInf}).status().code(), absl::StatusCode::kInternal);
    const auto none = Pick(p, {-kInf, -kInf, -kInf});
    EXPECT_EQ(none.status().code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(none.status().message()), HasSubstr("none of 3"));
    EXPECT_EQ(Pick(p, {}).status().code(), absl::StatusCode::kInternal);
  }
}

// ln softmax in f64, by the book.
std::vector<double> ExpectedLogprobs(const std::vector<float>& logits) {
  double total = 0;
  for (float x : logits) total += std::exp(static_cast<double>(x));
  std::vector<double> logprobs;
  for (float x : logits) logprobs.push_back(x - std::log(total));
  return logprobs;
}

TEST(LogprobsTest, AreThoseOfTheLogitsAsTheyCame) {
  constexpr uint32_t kSeed = 31415;
  SCOPED_TRACE(kSeed);
  std::mt19937 rng(kSeed);
  std::normal_distribution<float> normal(0, 3);
  for (const int vocab : {1, 2, 7, 300, 4099}) {
    std::vector<float> logits(vocab);
    for (float& x : logits) x = normal(rng);
    const std::vector<double> expected = ExpectedLogprobs(logits);
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    for (int i = 0; i < 20; ++i) {
      // Everything that could show in them, and must not.
      SamplingParams p;
      p.temperature = i % 2 == 0 ? 0 : 2.5;
      p.top_k = i % 3 == 0 ? 4 : 0;
      p.repetition_penalty = 1.3;
      p.frequency_penalty = 1;
      p.min_tokens = vocab > 1 ? 9 : 0;
      p.logit_bias = {{vocab - 1, 3.0}};
      p.logprobs = true;
      p.top_logprobs = i;
      std::vector<float> scratch = logits;
      const std::vector<int32_t> history = {0, 0};
      const std::vector<int32_t> stops = {order[0]};
      const auto sampled = Sample(p, {history, history, stops, static_cast<uint64_t>(i)}, scratch);
      ASSERT_TRUE(sampled.ok()) << sampled.status();
      EXPECT_TRUE(vocab == 1 || sampled->id != order[0]);
      EXPECT_NEAR(sampled->logprobs.logprob, expected[sampled->id], 2e-6);
      ASSERT_EQ(sampled->logprobs.top.size(), static_cast<size_t>(std::min(i, vocab)));
      for (size_t j = 0; j < sampled->logprobs.top.size(); ++j) {
        EXPECT_EQ(sampled->logprobs.top[j].id, order[j]);
        EXPECT_NEAR(sampled->logprobs.top[j].logprob, expected[order[j]], 2e-6);
      }
    }
  }
}

TEST(LogprobsTest, TheChosenIdIsTheSameWithAndWithout) {
  constexpr uint32_t kSeed = 8;
  std::mt19937 rng(kSeed);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(513);
  for (float& x : logits) x = normal(rng);
  SamplingParams plain;
  plain.temperature = 1;
  plain.top_p = 0.9;
  SamplingParams with = plain;
  with.logprobs = true;
  with.top_logprobs = 20;
  for (int i = 0; i < 200; ++i) EXPECT_EQ(Pick(plain, logits, i).value(), Pick(with, logits, i).value());
}

TEST(LogprobsTest, TiesGoToTheLowerIdAndWhatIsImpossibleIsLeftOut) {
  SamplingParams p;
  p.logprobs = true;
  p.top_logprobs = 5;
  std::vector<float> logits = {1, 2, -kInf, 2, 1};
  const auto sampled = Sample(p, {}, std::span<float>(logits));
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->id, 1);
  std::vector<int32_t> ids;
  for (const IdLogprob& top : sampled->logprobs.top) ids.push_back(top.id);
  EXPECT_THAT(ids, ElementsAre(1, 3, 0, 4));
  EXPECT_EQ(sampled->logprobs.logprob, sampled->logprobs.top[0].logprob);
  std::vector<float> broken = {1, kNan};
  EXPECT_EQ(Sample(p, {}, std::span<float>(broken)).status().code(), absl::StatusCode::kInternal);
}

TEST(LogprobsTest, FarApart) {
  SamplingParams p;
  p.logprobs = true;
  p.top_logprobs = 2;
  std::vector<float> logits = {3e38f, -3e38f};
  const auto sampled = Sample(p, {}, std::span<float>(logits));
  ASSERT_TRUE(sampled.ok());
  EXPECT_EQ(sampled->logprobs.logprob, 0);
  EXPECT_LT(sampled->logprobs.top[1].logprob, -1e38f);
}

}  // namespace
}  // namespace moepool
