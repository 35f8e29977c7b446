#include "tools/bench_statistics.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;

TEST(BenchStatisticsTest, PercentilesLieBetweenTheirNeighbours) {
  const std::vector<double> values = {1, 2, 4, 8, 16};
  EXPECT_EQ(Percentile(values, 0), 1);
  EXPECT_EQ(Percentile(values, 0.5), 4);
  EXPECT_EQ(Percentile(values, 1), 16);
  EXPECT_DOUBLE_EQ(Percentile(values, 0.9), 8 + 0.6 * 8);
  EXPECT_EQ(Percentile(values, -1), 1);
  EXPECT_EQ(Percentile(values, 2), 16);
  EXPECT_EQ(Percentile({7}, 0.99), 7);
}

TEST(BenchStatisticsTest, SummariesKeepTheOrderOfTheRepetitions) {
  const Summary summary = Summarize({3, 1, 2, 10});
  EXPECT_EQ(summary.median, 2.5);
  EXPECT_EQ(summary.min, 1);
  EXPECT_EQ(summary.max, 10);
  EXPECT_THAT(summary.values, ElementsAre(3, 1, 2, 10));
  EXPECT_EQ(ToJson(summary).dump(), R"({"max":10.0,"median":2.5,"min":1.0,"values":[3.0,1.0,2.0,10.0]})");
}

TEST(BenchStatisticsTest, DistributionOfNothingIsNull) {
  EXPECT_FALSE(Describe({}).has_value());
  EXPECT_EQ(ToJson(Describe({})).dump(), "null");
  std::vector<double> hundred;
  for (int i = 100; i >= 0; --i) hundred.push_back(i);
  const std::optional<Distribution> d = Describe(hundred);
  ASSERT_TRUE(d.has_value());
  EXPECT_EQ(d->count, 101u);
  EXPECT_EQ(d->mean, 50);
  EXPECT_EQ(d->p50, 50);
  EXPECT_EQ(d->p90, 90);
  EXPECT_EQ(d->p99, 99);
  EXPECT_EQ(d->min, 0);
  EXPECT_EQ(d->max, 100);
}

TEST(BenchStatisticsTest, GoodputCountsRequestsThatKeepToEveryBound) {
  const std::vector<RequestTimes> requests = {
      {100, 10, 1000}, {100, 30, 1000}, {300, 10, 1000}, {300, 30, 1000}, {200, std::nullopt, 200}};
  EXPECT_EQ(CountMet(requests, {}), 5u);
  EXPECT_EQ(CountMet(requests, {200, std::nullopt}), 3u);
  EXPECT_EQ(CountMet(requests, {std::nullopt, 20}), 3u);
  EXPECT_EQ(CountMet(requests, {200, 20}), 2u);
  EXPECT_EQ(CountMet(requests, {99.9, 20}), 0u);
  EXPECT_EQ(CountMet({}, {200, 20}), 0u);
}

TEST(BenchStatisticsTest, PoissonArrivals) {
  constexpr double kRate = 40;
  constexpr size_t kCount = 20'000;
  const std::vector<double> due = PoissonArrivals(kRate, kCount, 5);
  ASSERT_EQ(due.size(), kCount);
  EXPECT_TRUE(std::is_sorted(due.begin(), due.end()));
  EXPECT_GT(due.front(), 0);
  EXPECT_EQ(due, PoissonArrivals(kRate, kCount, 5));
  EXPECT_NE(due, PoissonArrivals(kRate, kCount, 6));
  EXPECT_NEAR(due.back(), kCount / kRate, 5 * std::sqrt(kCount) / kRate);

  // Gaps are exponential: their mean is their deviation, and e^-1 of them are above it.
  double squares = 0;
  size_t above = 0;
  for (size_t i = 0; i < kCount; ++i) {
    const double gap = due[i] - (i == 0 ? 0 : due[i - 1]);
    squares += (gap - 1 / kRate) * (gap - 1 / kRate);
    above += gap > 1 / kRate;
  }
  EXPECT_NEAR(std::sqrt(squares / kCount), 1 / kRate, 0.05 / kRate);
  EXPECT_NEAR(static_cast<double>(above) / kCount, std::exp(-1.0), 0.02);
  EXPECT_TRUE(PoissonArrivals(kRate, 0, 5).empty());
}

}  // namespace
}  // namespace moepool
