#include "tools/bench_load.h"

#include <algorithm>
#include <atomic>
#include <set>

#include "common/base/mutex.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

RequestOutcome Answer(double begin_s, std::vector<double> events_s, double end_s, int tokens) {
  RequestOutcome outcome;
  outcome.begin_s = begin_s;
  outcome.end_s = end_s;
  outcome.generated = Generated{std::move(events_s), tokens, 0};
  return outcome;
}

RequestOutcome Failure(double begin_s, double end_s, const char* message) {
  RequestOutcome outcome;
  outcome.begin_s = begin_s;
  outcome.end_s = end_s;
  outcome.generated = absl::UnavailableError(message);
  return outcome;
}

TEST(EvaluateTest, FiguresOfTwoRequestsAndFailures) {
  const LoadReport report =
      Evaluate({Answer(100.0, {100.5, 100.6, 100.8}, 101.0, 3), Answer(99.0, {100.0, 101.0, 102.0}, 102.5, 3),
                Failure(98.0, 98.5, "HTTP 429"), Failure(103.0, 108.0, "HTTP 429\nmore"),
                Answer(100.0, {100.1}, 100.2, 2)},
               3, {.ttft_ms = 600, .tpot_ms = 200});
  EXPECT_EQ(report.completed, 2u);
  EXPECT_EQ(report.errors,
            (std::map<std::string, size_t>{{"HTTP 429", 2}, {"2 of 3 tokens in 1 events", 1}}));
  EXPECT_DOUBLE_EQ(report.duration_s, 10);
  EXPECT_EQ(report.output_tokens, 6);
  EXPECT_NEAR(report.ttft_ms->min, 500, 1e-6);
  EXPECT_NEAR(report.ttft_ms->max, 1000, 1e-6);
  EXPECT_NEAR(report.tpot_ms->min, 150, 1e-6);
  EXPECT_NEAR(report.tpot_ms->max, 1000, 1e-6);
  EXPECT_EQ(report.itl_ms->count, 4u);
  EXPECT_NEAR(report.itl_ms->min, 100, 1e-6);
  EXPECT_NEAR(report.e2e_ms->min, 1000, 1e-6);
  EXPECT_NEAR(report.e2e_ms->max, 3500, 1e-6);
  EXPECT_EQ(report.met, 1u);

  const nlohmann::json json = ToJson(report, {.ttft_ms = 600});
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["failed"], 3);
  EXPECT_DOUBLE_EQ(json["output_tokens_per_s"].get<double>(), 0.6);
  EXPECT_DOUBLE_EQ(json["requests_per_s"].get<double>(), 0.2);
  EXPECT_DOUBLE_EQ(json["slo"]["goodput_per_s"].get<double>(), 0.1);
  EXPECT_EQ(json["slo"]["ttft_ms"], 600);
  EXPECT_TRUE(json["slo"]["tpot_ms"].is_null());
  EXPECT_TRUE(ToJson(report, {})["slo"].is_null());
}

TEST(EvaluateTest, RateWhileAllDecode) {
  // Both decode from 2 to 6, at 1 and half an event a second; the first request's ramp does not count.
  std::vector<RequestOutcome> outcomes = {Answer(0, {0.9, 1, 2, 3, 4, 5, 6}, 6, 7),
                                          Answer(0, {2, 4, 6}, 6, 7)};
  const LoadReport report = Evaluate(outcomes, 7, {});
  ASSERT_TRUE(report.together_tokens_per_s.has_value());
  EXPECT_DOUBLE_EQ(*report.together_tokens_per_s, 1.5 * 14 / 10);
  EXPECT_DOUBLE_EQ(ToJson(report, {})["together_tokens_per_s"].get<double>(), 1.5 * 14 / 10);

  outcomes.push_back(Answer(6, {7, 8}, 8, 7));  // comes when the others have ended
  EXPECT_FALSE(Evaluate(outcomes, 7, {}).together_tokens_per_s.has_value());
  outcomes.back() = Failure(0, 1, "gone");
  EXPECT_TRUE(ToJson(Evaluate(outcomes, 7, {}), {})["together_tokens_per_s"].is_null());
}

TEST(EvaluateTest, NothingCompleted) {
  const LoadReport report = Evaluate({Failure(1, 2, "gone")}, 3, {});
  EXPECT_EQ(report.completed, 0u);
  const nlohmann::json json = ToJson(report, {});
  EXPECT_TRUE(json["ttft_ms"].is_null());
  EXPECT_TRUE(json["together_tokens_per_s"].is_null());
  EXPECT_EQ(json["errors"]["gone"], 1);
  EXPECT_EQ(ToJson(Evaluate({}, 3, {}), {})["output_tokens_per_s"], 0.0);
}

TEST(EvaluateTest, OneTokenHasNoTimePerToken) {
  const LoadReport report = Evaluate({Answer(1, {1.25}, 1.5, 1)}, 1, {.tpot_ms = 1e-3});
  EXPECT_EQ(report.completed, 1u);
  EXPECT_FALSE(report.tpot_ms.has_value());
  EXPECT_EQ(report.met, 1u);
}

TEST(RunLoadTest, ClosedLoopHasEachClientWait) {
  std::atomic<int> under_way = 0;
  std::atomic<int> most = 0;
  Mutex mutex;
  std::multiset<size_t> sent;
  const auto outcomes = RunLoad({.requests = 57, .clients = 3}, [&](size_t i) -> absl::StatusOr<Generated> {
    const int now = ++under_way;
    for (int seen = most; seen < now && !most.compare_exchange_weak(seen, now);) {
    }
    {
      MutexLock lock(&mutex);
      sent.insert(i);
    }
    --under_way;
    return Generated{{}, static_cast<int>(i), 0};
  });
  EXPECT_LE(most, 3);
  ASSERT_EQ(outcomes.size(), 57u);
  for (size_t i = 0; i < 57; ++i) {
    EXPECT_EQ(sent.count(i), 1u) << i;
    EXPECT_EQ(outcomes[i].generated->tokens, static_cast<int>(i));
    EXPECT_LE(outcomes[i].begin_s, outcomes[i].end_s);
  }
}

TEST(RunLoadTest, OpenLoopWaitsForNobodyAndCountsFromWhenARequestWasDue) {
  constexpr size_t kRequests = 9;
  Mutex mutex;
  CondVar changed;
  size_t arrived = 0;
  const Load load = {.requests = kRequests, .rate_per_s = 1000, .seed = 4};
  // No answer comes before all have been asked for.
  const auto outcomes = RunLoad(load, [&](size_t) -> absl::StatusOr<Generated> {
    MutexLock lock(&mutex);
    arrived += 1;
    changed.NotifyAll();
    while (arrived < kRequests) changed.Wait(&mutex);
    return Generated{};
  });
  const std::vector<double> due = PoissonArrivals(1000, kRequests, 4);
  for (size_t i = 1; i < kRequests; ++i) {
    EXPECT_NEAR(outcomes[i].begin_s - outcomes[0].begin_s, due[i] - due[0], 1e-6) << i;
  }
}

TEST(RunLoadTest, NoRequests) { EXPECT_TRUE(RunLoad({.requests = 0, .clients = 2}, nullptr).empty()); }

}  // namespace
}  // namespace moepool
