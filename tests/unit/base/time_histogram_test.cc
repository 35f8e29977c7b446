#include "common/base/time_histogram.h"

#include "gtest/gtest.h"

namespace moepool {
namespace {

// A quantile is right to a bucket's width.
constexpr double kBucketRatio = 1.1221;

TEST(TimeHistogramTest, BoundsAreGeometricFromTenMicrosecondsToASecond) {
  EXPECT_DOUBLE_EQ(TimeHistogram::UpperBound(0), 1e-5);
  EXPECT_NEAR(TimeHistogram::UpperBound(20), 1e-4, 1e-12);
  EXPECT_NEAR(TimeHistogram::UpperBound(TimeHistogram::kBuckets - 2), 1.0, 1e-9);
}

TEST(TimeHistogramTest, ADurationLiesWithinTheBoundsOfItsBucket) {
  for (int i = 0; i + 1 < TimeHistogram::kBuckets; ++i) {
    TimeHistogram at;
    at.Add(TimeHistogram::UpperBound(i));
    EXPECT_EQ(at.counts()[static_cast<size_t>(i)], 1u) << i;
    TimeHistogram above;
    above.Add(TimeHistogram::UpperBound(i) * 1.001);
    EXPECT_EQ(above.counts()[static_cast<size_t>(i) + 1], 1u) << i;
  }
  TimeHistogram odd;
  for (const double seconds : {0.0, -1.0, 1e-9}) odd.Add(seconds);
  EXPECT_EQ(odd.counts()[0], 3u);
  odd.Add(1e9);
  EXPECT_EQ(odd.counts()[TimeHistogram::kBuckets - 1], 1u);
}

TEST(TimeHistogramTest, QuantilesOfATailAndABody) {
  TimeHistogram times;
  for (int i = 0; i < 980; ++i) times.Add(0.0002);
  for (int i = 0; i < 20; ++i) times.Add(0.05);
  EXPECT_EQ(times.count(), 1000u);
  EXPECT_NEAR(times.sum_seconds(), 980 * 0.0002 + 20 * 0.05, 1e-9);
  EXPECT_LE(times.Quantile(0.5), 0.0002 * kBucketRatio);
  EXPECT_GE(times.Quantile(0.5), 0.0002 / kBucketRatio);
  EXPECT_LE(times.Quantile(0.99), 0.05 * kBucketRatio);
  EXPECT_GE(times.Quantile(0.99), 0.05 / kBucketRatio);
  EXPECT_LE(times.Quantile(0.97), 0.0002 * kBucketRatio);
}

TEST(TimeHistogramTest, QuantilesOfEvenlySpreadTimes) {
  TimeHistogram times;
  for (int i = 1; i <= 10'000; ++i) times.Add(i * 1e-5);
  for (const double q : {0.1, 0.5, 0.9, 0.99}) EXPECT_NEAR(times.Quantile(q), q * 0.1, q * 0.1 * 0.03) << q;
}

TEST(TimeHistogramTest, NothingAndTheEnds) {
  TimeHistogram times;
  EXPECT_EQ(times.Quantile(0.5), 0);
  times.Add(1e-7);
  EXPECT_EQ(times.Quantile(0.5), TimeHistogram::UpperBound(0));
  TimeHistogram slow;
  slow.Add(30);
  EXPECT_EQ(slow.Quantile(0.5), TimeHistogram::UpperBound(TimeHistogram::kBuckets - 2));
}

TEST(TimeHistogramTest, SinceIsWhatCameBetween) {
  TimeHistogram times;
  times.Add(0.001);
  times.Add(0.5);
  const TimeHistogram earlier = times;
  times.Add(0.002);
  const TimeHistogram between = times.Since(earlier);
  EXPECT_EQ(between.count(), 1u);
  EXPECT_NEAR(between.sum_seconds(), 0.002, 1e-12);
  EXPECT_NEAR(between.Quantile(0.5), 0.002, 0.002 * (kBucketRatio - 1));
  TimeHistogram both = between;
  both.Merge(earlier);
  EXPECT_EQ(both.counts(), times.counts());
}

}  // namespace
}  // namespace moepool
