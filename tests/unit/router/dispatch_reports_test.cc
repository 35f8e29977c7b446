// What the dispatcher says of its exchanges, and what becomes of one that nobody waits for any more.
#include <limits>

#include "tests/unit/router/dispatch_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class DispatchReportsTest : public DispatchTest {
 protected:
  void SetClock() {
    now_ = absl::UnixEpoch() + absl::Hours(1000);
    clock_ = [this] { return now_; };
  }
  void Send(size_t member, uint32_t compute_us) {
    transports_[member]->worker = [this, compute_us](const Frame& dispatch) {
      now_ += absl::Milliseconds(1);  // each send takes one
      Answer answer(dispatch);
      answer.header.budget_us = compute_us;
      return Script{{answer.All()}};
    };
  }
  uint64_t Retries(RetryReason reason) const {
    return dispatcher_->totals().retries[static_cast<size_t>(reason)];
  }
  static Script Refuse(const Frame& dispatch, const absl::Status& status) {
    Frame frame;
    EncodeRefusal(*DecodeHeader(dispatch), status, &frame);
    return Script{{frame}};
  }

  absl::Time now_;
};

TEST_F(DispatchReportsTest, EachWorkerOfTheLayerIsReportedOnce) {
  SetClock();
  Place(2, 1);
  Send(0, 700);
  Send(1, 900);
  out_ = residual_;
  faults_.assign(kRows, 0);
  ASSERT_TRUE(Begin().ok());
  now_ += absl::Milliseconds(5);
  ASSERT_TRUE(dispatcher_->Finish(0, &backend_->Trunk(), nullptr, out_.data(), faults_).ok());
  ASSERT_EQ(pool_.reports.size(), 2u);
  uint64_t parts = 0;
  for (size_t m = 0; m < 2; ++m) {
    const ExchangeReport& report = pool_.reports[m];
    EXPECT_EQ(report.worker, WorkerId(100 + m));
    EXPECT_EQ(report.dispatch, absl::Milliseconds(1));
    EXPECT_EQ(report.round_trip, absl::Milliseconds(m == 0 ? 7 : 6));
    EXPECT_EQ(report.compute, absl::Microseconds(m == 0 ? 700 : 900));
    EXPECT_EQ(report.combine, absl::ZeroDuration());
    const FrameHeader header = *DecodeHeader(transports_[m]->sent.at(0));
    EXPECT_EQ(report.rows, static_cast<int>(header.rows));
    EXPECT_EQ(report.sent_bytes, header.length);
    EXPECT_GT(report.received_bytes, header.parts * kHidden * sizeof(float));
    EXPECT_EQ(dispatcher_->round_trips().at(report.worker), report.round_trip);
    parts += header.parts;
  }
  const DispatchTotals& totals = dispatcher_->totals();
  EXPECT_EQ(totals.parts, parts);
  uint64_t rows = 0;
  uint64_t counted_parts = 0;
  for (size_t i = 0; i < totals.rows_by_parts.size(); ++i) {
    rows += totals.rows_by_parts[i];
    counted_parts += i * totals.rows_by_parts[i];
  }
  EXPECT_EQ(rows, static_cast<uint64_t>(kRows));
  EXPECT_EQ(counted_parts, parts);
  const std::vector<uint64_t> tokens = dispatcher_->load().Read(now_).all;
  for (int expert = 0; expert < kExperts; ++expert) {
    const auto chosen = std::count_if(selected_.begin(), selected_.end(),
                                      [expert](const SelectedExpert& s) { return s.expert == expert; });
    EXPECT_EQ(tokens[static_cast<size_t>(kLayer * kExperts + expert)], static_cast<uint64_t>(chosen));
  }
  EXPECT_EQ(std::accumulate(tokens.begin(), tokens.end(), uint64_t{0}), uint64_t{kRows * kPerToken});
}

TEST_F(DispatchReportsTest, RoundTripsAreOfTheWorkersOfTheTable) {
  Place(2, 1);
  ASSERT_TRUE(Exchange().ok());
  auto next = std::make_shared<RoutingTable>(*pool_.routes);
  next->epoch = 6;
  next->members[1].worker = WorkerId(200);
  pool_.routes = next;
  ASSERT_TRUE(Exchange().ok());
  std::vector<uint64_t> workers;
  for (const auto& [worker, total] : dispatcher_->round_trips()) workers.push_back(worker.value());
  EXPECT_THAT(workers, ElementsAre(100, 200));
}

TEST_F(DispatchReportsTest, RetriesAreCountedByTheirReason) {
  struct Case {
    RetryReason reason;
    absl::Status cause;
    bool refused;
  };
  for (const Case& c : {Case{RetryReason::kTimeout, absl::DeadlineExceededError("late"), false},
                        Case{RetryReason::kTimeout, absl::DeadlineExceededError("begun too late"), true},
                        Case{RetryReason::kConnection, absl::UnavailableError("gone"), false},
                        Case{RetryReason::kRefusal, absl::InvalidArgumentError("no"), true},
                        Case{RetryReason::kRefusal, absl::NotFoundError("not held"), true}}) {
    Place(2, 1);
    pool_.losses.clear();
    transports_[1]->worker = [&](const Frame& dispatch) {
      return c.refused ? Refuse(dispatch, c.cause) : Script{{}, c.cause};
    };
    ExpectLost(Exchange(), 101);
    for (size_t i = 0; i < kRetryReasons; ++i) {
      EXPECT_EQ(dispatcher_->totals().retries[i], i == static_cast<size_t>(c.reason) ? 1u : 0u)
          << RetryReasonName(c.reason) << ", " << c.cause;
    }
    EXPECT_THAT(pool_.reports, IsEmpty());
  }
  Place(2, 1);
  auto newer = std::make_shared<RoutingTable>(*pool_.routes);
  newer->epoch = 6;
  transports_[1]->worker = [&](const Frame& dispatch) {
    pool_.routes = newer;
    return Refuse(dispatch, absl::NotFoundError("released"));
  };
  EXPECT_FALSE(Exchange().ok());
  EXPECT_EQ(Retries(RetryReason::kStaleRoutes), 1u);
}

TEST_F(DispatchReportsTest, WorkersHaveNoMoreTimeThanTheStep) {
  SetClock();
  timeouts_ = {absl::Seconds(3), absl::ZeroDuration()};
  struct Case {
    absl::Duration left;  // of the step
    uint32_t budget_us;
  };
  for (const Case& c :
       {Case{absl::InfiniteDuration(), 3'000'000}, Case{absl::Seconds(9), 3'000'000},
        Case{absl::Milliseconds(20), 20'000}, Case{absl::ZeroDuration(), 1}, Case{-absl::Seconds(1), 1}}) {
    Place(1, 1);
    dispatcher_->SetStepDeadline(now_ + c.left);
    ASSERT_TRUE(Exchange().ok());
    EXPECT_EQ(DecodeHeader(transports_[0]->sent.at(0))->budget_us, c.budget_us) << c.left;
  }
}

TEST_F(DispatchReportsTest, AWorkerThatDoesNotBeginWhatIsTooLateIsNotLost) {
  SetClock();
  Place(3, 1);
  dispatcher_->SetStepDeadline(now_ + absl::Milliseconds(10));
  transports_[1]->worker = [this](const Frame& dispatch) {
    now_ += absl::Milliseconds(10);
    return Refuse(dispatch, absl::DeadlineExceededError("too late"));
  };
  EXPECT_EQ(Exchange().code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(pool_.losses, IsEmpty());
  EXPECT_EQ(out_, residual_);
  for (const auto& transport : transports_) EXPECT_EQ(transport->open(), 0u);
  for (const uint64_t retries : dispatcher_->totals().retries) EXPECT_EQ(retries, 0u);
  dispatcher_->SetStepDeadline(absl::InfiniteFuture());
  ExpectRecovers();
  // Silence is a loss, whoever waits.
  dispatcher_->SetStepDeadline(now_);
  transports_[1]->worker = [](const Frame&) { return Script{}; };
  ExpectLost(Exchange(), 101);
}

}  // namespace
}  // namespace moepool
