#include "router/expert_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "router/last_minute.h"
#include "router/worker_totals.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;

absl::Time At(int64_t seconds) {
  return absl::UnixEpoch() + absl::Seconds(1'000'000) + absl::Seconds(seconds);
}

TEST(LastMinuteTest, AddsWhatCameWithinIt) {
  LastMinute sums(2);
  EXPECT_THAT(sums.Sums(At(0)), ElementsAre(0, 0));
  sums.At(At(0))[0] += 3;
  sums.At(At(4))[1] += 5;
  sums.At(At(30))[0] += 1;
  EXPECT_THAT(sums.Sums(At(30)), ElementsAre(4, 5));
  EXPECT_THAT(sums.Sums(At(59)), ElementsAre(4, 5));
  EXPECT_THAT(sums.Sums(At(60)), ElementsAre(1, 0));
  EXPECT_THAT(sums.Sums(At(89)), ElementsAre(1, 0));
  EXPECT_THAT(sums.Sums(At(90)), ElementsAre(0, 0));
  sums.At(At(10'000))[1] += 2;  // buckets of long ago are not taken for new ones
  EXPECT_THAT(sums.Sums(At(10'000)), ElementsAre(0, 2));
}

TEST(LastMinuteTest, SaysHowMuchItCovers) {
  EXPECT_EQ(LastMinute::Covered(At(0)), absl::Seconds(55));
  EXPECT_EQ(LastMinute::Covered(At(4)), absl::Seconds(59));
  EXPECT_EQ(LastMinute::Covered(At(5)), absl::Seconds(55));
  EXPECT_EQ(LastMinute::Covered(At(7) + absl::Milliseconds(500)), absl::Milliseconds(57'500));
}

TEST(LastMinuteTest, AClockThatIsSetBackLosesNothingNew) {
  LastMinute sums;
  sums.At(At(100))[0] += 3;
  sums.At(At(20))[0] += 1;
  EXPECT_THAT(sums.Sums(At(20)), ElementsAre(1));
  EXPECT_THAT(LastMinute().Sums(absl::UnixEpoch()), ElementsAre(0));
  LastMinute old;
  old.At(absl::UnixEpoch() - absl::Seconds(9))[0] += 7;
  EXPECT_THAT(old.Sums(absl::UnixEpoch() - absl::Seconds(9)), ElementsAre(7));
}

TEST(ExpertLoadTest, CountsWhatTheGateChose) {
  ExpertLoad load(/*layers=*/2, /*experts=*/3, /*experts_per_token=*/2);
  const std::vector<SelectedExpert> selected = {{0, 0.5f}, {2, 0.5f}, {1, 0.5f},
                                                {2, 0.5f}, {0, 1.0f}, {1, 0.0f}};
  const std::vector<uint8_t> skip = {0, 0, 1};
  load.Add(1, selected, skip, At(0));
  load.Add(1, selected, skip, At(70));
  load.Add(0, std::span(selected).first(2), std::span(skip).first(1), At(70));
  const ExpertLoad::Tokens tokens = load.Read(At(75));
  EXPECT_THAT(tokens.all, ElementsAre(1, 0, 1, 2, 2, 4));
  EXPECT_THAT(tokens.last_minute, ElementsAre(1, 0, 1, 1, 1, 2));
}

TEST(LoadRatiosTest, MostOverMean) {
  RoutingTable table;
  table.members.resize(2);
  table.member = {0, 0, 1, 1, /*layer 1*/ 0, 0, 1, 1, /*layer 2*/ 0, 1, 1, 1};
  const std::vector<uint64_t> tokens = {3, 0, 1, 2, /*layer 1*/ 0, 0, 0, 0, /*layer 2*/ 0, 4, 0, 8};
  EXPECT_THAT(LoadRatios(tokens, table, 3, 4), ElementsAre(1.0, 0.0, 2.0));
  table.members.resize(3);  // holds nothing, and counts in the mean
  EXPECT_THAT(LoadRatios(tokens, table, 3, 4), ElementsAre(1.5, 0.0, 3.0));
}

TEST(WorkerTotalsTest, AddUp) {
  WorkerTotals totals;
  ExchangeReport report;
  report.rows = 4;
  report.dispatch = absl::Microseconds(30);
  report.round_trip = absl::Microseconds(100);
  report.compute = absl::Seconds(11);
  report.combine = absl::Microseconds(20);
  report.sent_bytes = 1000;
  report.received_bytes = 300;
  totals.Add(report, At(0));
  report.round_trip = absl::Microseconds(200);
  report.compute = absl::Seconds(1);
  totals.Add(report, At(30));
  PoolWorkerInfo info;
  totals.Describe(At(30), absl::Hours(1), &info);
  EXPECT_EQ(info.dispatches, 2u);
  EXPECT_DOUBLE_EQ(info.round_trip_us, 110);
  EXPECT_EQ(info.rows, 8u);
  EXPECT_EQ(info.compute_us, 12'000'000u);
  EXPECT_EQ(info.dispatch_us, 60u);
  EXPECT_EQ(info.combine_us, 40u);
  EXPECT_EQ(info.sent_bytes, 2000u);
  EXPECT_EQ(info.received_bytes, 600u);
  EXPECT_EQ(info.dispatch.count(), 2u);
  EXPECT_EQ(info.combine.count(), 2u);
  EXPECT_DOUBLE_EQ(info.busy_ratio, 12.0 / 55);
  totals.Describe(At(30), absl::Seconds(48), &info);  // as long as it has been here
  EXPECT_DOUBLE_EQ(info.busy_ratio, 0.25);
  totals.Describe(At(30), absl::Seconds(5), &info);
  EXPECT_DOUBLE_EQ(info.busy_ratio, 1);
  totals.Describe(At(30), absl::ZeroDuration(), &info);
  EXPECT_DOUBLE_EQ(info.busy_ratio, 0);
  totals.Describe(At(90), absl::Hours(1), &info);
  EXPECT_DOUBLE_EQ(info.busy_ratio, 0);
  EXPECT_EQ(info.dispatches, 2u);
}

}  // namespace
}  // namespace moepool
