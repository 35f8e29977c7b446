// PickId against its definition, by sorting everything.
#include "common/backend/pick.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/math.h"
#include "tests/support/pick_cases.h"

namespace moepool {
namespace {

constexpr uint64_t kSeed = 20261129;

int32_t PickByDefinition(const PickParams& params, const std::vector<float>& logits) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) return -1;
    if (std::isfinite(logits[i])) order.push_back(static_cast<int32_t>(i));
  }
  if (order.empty()) return -1;
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  if (params.temperature == 0) return order[0];

  const float best = logits[order[0]];
  const auto weight = [&](int32_t id) { return Exp((logits[id] - best) / params.temperature); };
  const auto share = [&](int32_t id) { return static_cast<uint64_t>(std::floor(weight(id) * 0x1p39)); };
  const auto sum = [&] {
    unsigned __int128 total = 0;
    for (const int32_t id : order) total += share(id);
    return total;
  };
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < order.size()) order.resize(params.top_k);
  if (params.top_p > 0) {
    const unsigned __int128 wanted = sum() * params.top_p;  // in units of 2^-64
    unsigned __int128 reached = 0;
    size_t kept = 0;
    while (reached << 64 < wanted) reached += share(order[kept++]);
    order.resize(kept);
  }
  std::erase_if(order, [&](int32_t id) { return weight(id) < params.min_p; });
  std::sort(order.begin(), order.end());
  const uint64_t target = static_cast<uint64_t>(sum() * params.random >> 64);
  uint64_t reached = 0;
  for (const int32_t id : order) {
    reached += share(id);
    if (reached > target) return id;
  }
  return -2;
}

TEST(PickTest, FollowsItsDefinition) {
  for (const PickCase& c : PickCases(kSeed)) {
    for (const PickParams& p : c.params) {
      ASSERT_EQ(PickId(p, c.logits), PickByDefinition(p, c.logits))
          << c.logits.size() << " logits, temperature " << p.temperature << " top_k " << p.top_k << " top_p "
          << p.top_p << " min_p " << p.min_p << " random " << p.random;
    }
  }
}

// Shares of 1/8 each, so that fractions are exact.
TEST(PickTest, FractionsAreExact) {
  const std::vector<float> equal(8, 1.0f);
  const uint64_t eighth = uint64_t{1} << 61;
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(PickId({.temperature = 1, .random = eighth * i}, equal), static_cast<int32_t>(i));
    EXPECT_EQ(PickId({.temperature = 1, .random = eighth * i + (eighth - 1)}, equal),
              static_cast<int32_t>(i));
  }
  const uint64_t last = ~uint64_t{0};
  EXPECT_EQ(PickId({.temperature = 1, .top_p = 4 * eighth, .random = last}, equal), 3);
  EXPECT_EQ(PickId({.temperature = 1, .top_p = 4 * eighth + 1, .random = last}, equal), 4);
  EXPECT_EQ(PickId({.temperature = 1, .top_p = 1, .random = last}, equal), 0);
  EXPECT_EQ(PickId({.temperature = 1, .top_p = last, .random = last}, equal), 7);
}

TEST(PickTest, NoLogitsGiveNoId) { EXPECT_EQ(PickId({}, {}), -1); }

}  // namespace
}  // namespace moepool
