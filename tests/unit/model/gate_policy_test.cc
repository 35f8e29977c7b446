#include "common/model/gate_policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace moepool {
namespace {

ModelConfig Softmax(int experts, int k, bool renormalize, float scale = 1) {
  ModelConfig config;
  config.experts = experts;
  config.experts_per_token = k;
  config.gate = {.kind = GateKind::kSoftmax, .renormalize = renormalize, .scale = scale};
  return config;
}

std::vector<SelectedExpert> Select(const ModelConfig& config, const std::vector<float>& logits) {
  std::vector<SelectedExpert> selected(static_cast<size_t>(config.experts_per_token), SelectedExpert{-7, -7});
  EXPECT_TRUE((*MakeGatePolicy(config))->Select(logits, selected));
  return selected;
}

TEST(GatePolicy, DensePicksAllWithWeightOne) {
  ModelConfig config;
  config.experts = config.experts_per_token = kDenseSlices;
  const std::vector<SelectedExpert> selected = Select(config, {});
  for (int e = 0; e < kDenseSlices; ++e) EXPECT_EQ(selected[e], (SelectedExpert{e, 1.0f}));
}

TEST(GatePolicy, SoftmaxAgainstItsDefinition) {
  constexpr uint64_t kSeed = 99;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal(0, 3);
  for (const auto& [experts, k] : {std::pair(8, 2), {16, 1}, {128, 8}, {5, 5}, {1, 1}, {300, 17}}) {
    for (const bool renormalize : {false, true}) {
      std::vector<float> logits(static_cast<size_t>(experts));
      for (float& logit : logits) logit = normal(random);
      std::vector<int32_t> order(logits.size());
      for (size_t e = 0; e < order.size(); ++e) order[e] = static_cast<int32_t>(e);
      std::stable_sort(order.begin(), order.end(),
                       [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
      order.resize(static_cast<size_t>(k));
      std::sort(order.begin(), order.end());
      double all = 0;
      double chosen = 0;
      for (const float logit : logits) all += std::exp(static_cast<double>(logit));
      for (const int32_t e : order) chosen += std::exp(static_cast<double>(logits[e]));
      const std::vector<SelectedExpert> selected = Select(Softmax(experts, k, renormalize, 2.5f), logits);
      for (size_t i = 0; i < order.size(); ++i) {
        EXPECT_EQ(selected[i].expert, order[i]);
        const double expected =
            2.5 * std::exp(static_cast<double>(logits[order[i]])) / (renormalize ? chosen : all);
        EXPECT_NEAR(selected[i].weight, expected, 1e-5 * expected);
      }
    }
  }
}

TEST(GatePolicy, TiesGoToTheLowerExpert) {
  const auto experts = [](const std::vector<SelectedExpert>& selected) {
    return std::pair(selected[0].expert, selected[1].expert);
  };
  EXPECT_EQ(experts(Select(Softmax(4, 2, true), {1, 1, 1, 1})), std::pair(0, 1));
  EXPECT_EQ(experts(Select(Softmax(4, 2, true), {0, 1, 2, 1})), std::pair(1, 2));
  EXPECT_EQ(experts(Select(Softmax(4, 2, true), {0.0f, -0.0f, -1, -2})), std::pair(0, 1));
  // Probabilities that underflow to 0 alike still differ as logits.
  EXPECT_EQ(experts(Select(Softmax(4, 2, true), {-900, 0, -800, -700})), std::pair(1, 3));
}

TEST(GatePolicy, ExtremeLogits) {
  const float max = std::numeric_limits<float>::max();
  const std::vector<SelectedExpert> selected = Select(Softmax(3, 2, true), {max, -max, 0});
  EXPECT_EQ(selected[0], (SelectedExpert{0, 1.0f}));
  EXPECT_EQ(selected[1], (SelectedExpert{2, 0.0f}));  // a weight of 0 is still selected
}

TEST(GatePolicy, LogitsThatAreNotFinite) {
  const auto policy = *MakeGatePolicy(Softmax(4, 2, true));
  std::vector<SelectedExpert> selected(2);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (size_t at = 0; at < 4; ++at) {
      std::vector<float> logits = {1, 2, 3, 4};
      logits[at] = bad;
      EXPECT_FALSE(policy->Select(logits, selected)) << bad << " at " << at;
    }
  }
}

ModelConfig SparseMixer(int experts, float eps = 0.01f) {
  ModelConfig config;
  config.experts = experts;
  config.experts_per_token = 2;
  config.gate.kind = GateKind::kSparseMixer;
  config.gate.jitter_eps = eps;
  return config;
}

// Weights by hand: 1 / (sum of exp(s_j - m) over those kept).
TEST(GatePolicy, SparseMixerKeepsWhatIsNear) {
  using Selected = std::vector<SelectedExpert>;
  // Nothing within 2 % of either: both weigh 1.
  EXPECT_EQ(Select(SparseMixer(4), {1, 4, 2, 3}), (Selected{{1, 1.0f}, {3, 1.0f}}));
  // (4 - 3.95) / 4 = 1.25 %: kept in the first softmax, alone in the second.
  const Selected near = Select(SparseMixer(4), {1, 3.95f, 4, 2});
  EXPECT_EQ(near[0], (SelectedExpert{1, 1.0f}));
  EXPECT_EQ(near[1].expert, 2);
  EXPECT_NEAR(near[1].weight, 1 / (1 + std::exp(-0.05)), 1e-6);
  // With a larger epsilon the third is kept too, in both.
  const Selected wide = Select(SparseMixer(4, 0.3f), {1, 3.95f, 4, 2});
  EXPECT_NEAR(wide[1].weight, 1 / (1 + std::exp(-0.05) + std::exp(-2.0)), 1e-6);
  EXPECT_NEAR(wide[0].weight, 1 / (1 + std::exp(-1.95)), 1e-6);
}

TEST(GatePolicy, SparseMixerOfNegativeLogitsDividesByTheirSize) {
  // (-2 + 2.03) / 2.03 = 1.5 %; (-2 + 2.06) / 2.06 = 2.9 %. Without |s_j| the divisor would be -2.
  const std::vector<SelectedExpert> selected = Select(SparseMixer(4), {-2.06f, -2, -2.03f, -9});
  EXPECT_EQ(selected[0].expert, 1);
  EXPECT_NEAR(selected[0].weight, 1 / (1 + std::exp(-0.03)), 1e-6);
  EXPECT_EQ(selected[1].expert, 2);
  EXPECT_NEAR(selected[1].weight, 1 / (1 + std::exp(-0.03)), 1e-6);
}

TEST(GatePolicy, SparseMixerTiesGoToTheLowerExpertWhichWeighsLess) {
  using Selected = std::vector<SelectedExpert>;
  EXPECT_EQ(Select(SparseMixer(3), {1, 5, 5}), (Selected{{1, 0.5f}, {2, 1.0f}}));
  EXPECT_EQ(Select(SparseMixer(4), {5, 5, 1, 5}), (Selected{{0, 1.0f / 3}, {1, 0.5f}}));
  EXPECT_EQ(Select(SparseMixer(2), {0, 0}), (Selected{{0, 0.5f}, {1, 1.0f}}));  // 0 / 0 keeps
}

TEST(GatePolicy, SparseMixerLogitsThatAreNotFinite) {
  std::vector<SelectedExpert> selected(2);
  const auto policy = *MakeGatePolicy(SparseMixer(3));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (size_t at = 0; at < 3; ++at) {
      std::vector<float> logits = {1, 2, 3};
      logits[at] = bad;
      EXPECT_FALSE(policy->Select(logits, selected)) << bad << " at " << at;
    }
  }
}

ModelConfig SigmoidConfig(int experts, int k, bool renormalize, float scale = 1) {
  ModelConfig config = Softmax(experts, k, renormalize, scale);
  config.gate.kind = GateKind::kSigmoid;
  return config;
}

TEST(GatePolicy, SigmoidAgainstItsDefinition) {
  const std::vector<float> logits = {-3, 0.25f, 7, -0.5f, 1.5f, -40};
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (const bool renormalize : {false, true}) {
    const std::vector<SelectedExpert> selected = Select(SigmoidConfig(6, 3, renormalize, 2.5f), logits);
    const double sum = renormalize ? sigmoid(0.25) + sigmoid(7) + sigmoid(1.5) : 1;
    const int32_t chosen[] = {1, 2, 4};
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(selected[i].expert, chosen[i]);
      EXPECT_NEAR(selected[i].weight, 2.5 * sigmoid(logits[static_cast<size_t>(chosen[i])]) / sum, 1e-6);
    }
  }
}

// The sigmoids of both are 1 in f32.
TEST(GatePolicy, SigmoidChoosesByLogits) {
  EXPECT_EQ(Select(SigmoidConfig(3, 1, false), {30, 40, 35}), (std::vector<SelectedExpert>{{1, 1.0f}}));
}

TEST(GatePolicy, SigmoidsThatAreZeroWeighNothing) {
  EXPECT_EQ(Select(SigmoidConfig(3, 2, true), {-200, -150, -160}),
            (std::vector<SelectedExpert>{{1, 0.0f}, {2, 0.0f}}));
}

TEST(GatePolicy, SigmoidLogitsThatAreNotFinite) {
  std::vector<SelectedExpert> selected(2);
  const auto policy = *MakeGatePolicy(SigmoidConfig(3, 2, true));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    EXPECT_FALSE(policy->Select(std::vector<float>{1, bad, 3}, selected)) << bad;
  }
}

TEST(GatePolicy, DescriptorsThatAreNotBuiltIn) {
  ModelConfig three = SparseMixer(8);
  three.experts_per_token = 3;
  EXPECT_FALSE(MakeGatePolicy(three).ok());
  EXPECT_FALSE(MakeGatePolicy(SparseMixer(1)).ok());

  EXPECT_FALSE(MakeGatePolicy(Softmax(8, 9, true)).ok());
  EXPECT_FALSE(MakeGatePolicy(Softmax(8, 0, true)).ok());
  ModelConfig dense;
  dense.experts = 16;
  dense.experts_per_token = 2;
  EXPECT_FALSE(MakeGatePolicy(dense).ok());
}

}  // namespace
}  // namespace moepool
