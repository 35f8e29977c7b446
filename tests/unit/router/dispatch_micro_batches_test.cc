// Two exchanges at once: rows cut anywhere have the same sums, what goes wrong in one of them ends both, and
// times are counted once.
#include <array>

#include "tests/unit/router/dispatch_testing.h"

namespace moepool {
namespace {

using ::testing::IsEmpty;

class DispatchMicroBatchesTest : public DispatchTest {
 protected:
  // The first `rows` rows, or the others.
  absl::Status BeginPart(int micro_batch, int layer, int rows) {
    const size_t first = micro_batch == 0 ? 0 : static_cast<size_t>(rows);
    const size_t count = micro_batch == 0 ? static_cast<size_t>(rows) : kRows - first;
    GatedRows part;
    part.micro_batch = micro_batch;
    part.layer = layer;
    part.x.rows = static_cast<int>(count);
    part.x.cols = kHidden;
    part.x.f32 = x_.data() + first * kHidden;
    part.selected = std::span(selected_).subspan(first * kPerToken, count * kPerToken);
    part.skip = std::span(skip_).subspan(first, count);
    return dispatcher_->Begin(part, pool_.routes);
  }
  absl::Status FinishPart(int micro_batch, int rows) {
    const size_t first = micro_batch == 0 ? 0 : static_cast<size_t>(rows);
    const size_t count = micro_batch == 0 ? static_cast<size_t>(rows) : kRows - first;
    return dispatcher_->Finish(micro_batch, &backend_->Trunk(), nullptr, out_.data() + first * kHidden,
                               std::span(faults_).subspan(first, count));
  }
  void Reset() {
    out_ = residual_;
    faults_.assign(kRows, 0);
    pool_.losses.clear();
  }
  void ExpectNothingOpen() {
    for (const auto& transport : transports_) {
      EXPECT_EQ(transport->open(), 0u);
      EXPECT_EQ(transport->kept(), 0u);
    }
  }
  // The exchange works again, in one micro-batch and in two.
  void ExpectRecoversInTwo() {
    ExpectRecovers();
    Reset();
    ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
    ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
    ASSERT_TRUE(FinishPart(0, 4).ok());
    ASSERT_TRUE(FinishPart(1, 4).ok());
    EXPECT_EQ(out_, Expected());
    ExpectNothingOpen();
  }
};

TEST_F(DispatchMicroBatchesTest, SumsAreTheSameWhereverRowsAreCut) {
  for (uint32_t seed = 1; seed <= 10; ++seed) {
    MakeRows(seed);
    skip_[seed % kRows] = 1;
    for (const int workers : {1, 3, 16}) {
      for (int rows = 1; rows < kRows; ++rows) {
        SCOPED_TRACE(testing::Message() << "seed " << seed << ", " << workers << " workers, " << rows);
        Place(workers, seed);
        Reset();
        ASSERT_TRUE(BeginPart(0, kLayer, rows).ok());
        ASSERT_TRUE(BeginPart(1, kLayer, rows).ok());
        ASSERT_TRUE(FinishPart(0, rows).ok());
        ASSERT_TRUE(FinishPart(1, rows).ok());
        EXPECT_EQ(out_, Expected());
        ExpectNothingOpen();
      }
    }
  }
}

// As the layers go: the first is in the next one already when the second is added.
TEST_F(DispatchMicroBatchesTest, TheyAreInUnlikeLayersAndKeepApart) {
  Reset();
  ASSERT_TRUE(BeginPart(0, 1, 4).ok());
  ASSERT_TRUE(BeginPart(1, 1, 4).ok());
  ASSERT_TRUE(FinishPart(0, 4).ok());
  ASSERT_TRUE(BeginPart(0, 2, 4).ok());
  ASSERT_TRUE(FinishPart(1, 4).ok());
  EXPECT_EQ(out_, Expected());
  residual_ = out_;
  ASSERT_TRUE(FinishPart(0, 4).ok());
  // The leaves of the test do not depend on the layer.
  const std::vector<float> twice = Expected();
  const auto cut = 4 * kHidden;
  EXPECT_TRUE(std::equal(out_.begin(), out_.begin() + cut, twice.begin()));
  EXPECT_TRUE(std::equal(out_.begin() + cut, out_.end(), residual_.begin() + cut));
  for (const auto& transport : transports_) {
    for (const Frame& frame : transport->sent) {
      const auto header = DecodeHeader(frame);
      ASSERT_TRUE(header.ok());
      EXPECT_LE(header->rows, header->micro_batch == 0 ? 4u : 5u);
    }
  }
  EXPECT_EQ(DecodeHeader(transports_[0]->sent.at(1))->micro_batch, 1u);
  ExpectNothingOpen();
}

// A worker that is lost, lies or refuses in one of two exchanges: both are given up, whichever it is and
// wherever the other one stands.
TEST_F(DispatchMicroBatchesTest, LossOfOneGivesUpBoth) {
  const std::vector<std::pair<std::string, Worker>> ends = {
      {"gone",
       [](const Frame&) {
         return Script{{}, absl::UnavailableError("gone")};
       }},
      {"silent", [](const Frame&) { return Script{}; }},
      {"in the middle",
       [](const Frame& dispatch) {
         return Script{{Answer(dispatch).Reply(0, 1)}, absl::UnavailableError("gone")};
       }},
      {"refuses",
       [](const Frame& dispatch) {
         Frame frame;
         EncodeRefusal(*DecodeHeader(dispatch), absl::NotFoundError("not held"), &frame);
         return Script{{frame}};
       }},
      {"answers for the other",
       [](const Frame& dispatch) {
         Answer answer(dispatch);
         answer.header.dispatch_id ^= 1;
         return Script{{answer.All()}};
       }},
  };
  for (const auto& [what, end] : ends) {
    for (const uint32_t at : {0u, 1u}) {  // in the dispatch of this micro-batch
      SCOPED_TRACE(testing::Message() << what << ", " << at);
      Place(3, 1);
      Reset();
      transports_[1]->worker = [&, end = end](const Frame& dispatch) {
        return DecodeHeader(dispatch)->micro_batch == at ? end(dispatch) : Honest(dispatch);
      };
      ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
      ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
      absl::Status status = FinishPart(0, 4);
      if (at == 1) {
        ASSERT_TRUE(status.ok()) << status;
        status = FinishPart(1, 4);
        out_ = residual_;  // the first was added; the step is run again as a whole
      }
      ExpectLost(status, 101);
      ExpectNothingOpen();
      ExpectRecoversInTwo();
    }
  }
}

TEST_F(DispatchMicroBatchesTest, LossWhileTheSecondIsSentGivesUpBoth) {
  for (const absl::Status& cause :
       {absl::UnavailableError("gone"), absl::DeadlineExceededError("all 4 credits stayed used up")}) {
    Place(3, 1);
    Reset();
    ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
    transports_[2]->send_status = cause;
    ExpectLost(BeginPart(1, kLayer, 4), 102);
    ExpectNothingOpen();
    ExpectRecoversInTwo();
  }
}

TEST_F(DispatchMicroBatchesTest, StaleRoutesInOneGiveUpBothAndLoseNobody) {
  Place(3, 1);
  Reset();
  auto newer = std::make_shared<RoutingTable>(*pool_.routes);
  newer->epoch = 6;
  transports_[1]->worker = [&](const Frame& dispatch) {
    if (DecodeHeader(dispatch)->micro_batch == 1) return Honest(dispatch);
    Frame frame;
    EncodeRefusal(*DecodeHeader(dispatch), absl::NotFoundError("released"), &frame);
    return Script{{frame}};
  };
  ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
  ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
  pool_.routes = newer;
  EXPECT_EQ(FinishPart(0, 4).code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(pool_.losses, IsEmpty());
  EXPECT_EQ(out_, residual_);
  ExpectNothingOpen();
  ExpectRecoversInTwo();
}

TEST_F(DispatchMicroBatchesTest, WhatIsTooLateInOneGivesUpBoth) {
  absl::Time now = absl::UnixEpoch();
  clock_ = [&now] { return now; };
  Place(3, 1);
  Reset();
  dispatcher_->SetStepDeadline(now + absl::Milliseconds(10));
  transports_[1]->worker = [&](const Frame& dispatch) {
    if (DecodeHeader(dispatch)->micro_batch == 0) return Honest(dispatch);
    Frame frame;
    EncodeRefusal(*DecodeHeader(dispatch), absl::DeadlineExceededError("too late"), &frame);
    return Script{{frame}};
  };
  ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
  ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
  now += absl::Milliseconds(10);
  ASSERT_TRUE(FinishPart(0, 4).ok());
  ASSERT_TRUE(BeginPart(0, kLayer + 1, 4).ok());
  EXPECT_EQ(FinishPart(1, 4).code(), absl::StatusCode::kCancelled);
  EXPECT_THAT(pool_.losses, IsEmpty());
  ExpectNothingOpen();
  dispatcher_->SetStepDeadline(absl::InfiniteFuture());
  ExpectRecoversInTwo();
}

// What the trunk does for one is not taken from the other's time.
TEST_F(DispatchMicroBatchesTest, TheTrunksTimeIsNotTheWorkers) {
  absl::Time now = absl::UnixEpoch();
  clock_ = [&now] { return now; };
  timeouts_ = {absl::Seconds(1), absl::ZeroDuration()};
  Place(1, 1);
  Reset();
  transports_[0]->worker = [](const Frame& dispatch) {
    const Answer answer(dispatch);
    return Script{{answer.Reply(0, 1), answer.Reply(0, 1), answer.All()}};  // a duplicate asks for the time
  };
  ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
  ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
  now += absl::Seconds(5);
  EXPECT_TRUE(FinishPart(0, 4).ok());
  now += absl::Seconds(5);
  EXPECT_TRUE(FinishPart(1, 4).ok());
  EXPECT_EQ(out_, Expected());
}

// One worker, which computes 3 ms for each. Of each exchange counts what nobody computes in, and each wait
// once.
TEST_F(DispatchMicroBatchesTest, OwnTimeLeavesOutWhatTheOtherOneHides) {
  struct Case {
    absl::Duration trunk;                   // between the second's Begin and the first's Finish
    std::array<absl::Duration, 2> receive;  // until each is there
    absl::Duration own;                     // of both
  };
  const auto ms = [](int n) { return absl::Milliseconds(n); };
  for (const Case& c : {Case{ms(0), {ms(5), ms(3)}, ms(4)},      // computed by 3 and 6 ms, taken 2 ms after
                        Case{ms(4), {ms(1), ms(5)}, ms(1 + 4)},  // the trunk hides most of the first's
                        Case{ms(20), {ms(0), ms(0)}, ms(0)},     // and all of both
                        Case{ms(0), {ms(9), ms(0)}, ms(6)}}) {  // the second's, while the first is waited for
    absl::Time now = absl::UnixEpoch();
    clock_ = [&now] { return now; };
    Place(1, 1);
    transports_[0]->worker = [](const Frame& dispatch) {
      Answer answer(dispatch);
      answer.header.budget_us = 3000;
      return Script{{answer.All()}};
    };
    transports_[0]->on_receive = [&](uint64_t dispatch_id) { now += c.receive[dispatch_id - 1]; };
    Reset();
    ASSERT_TRUE(BeginPart(0, kLayer, 4).ok());
    ASSERT_TRUE(BeginPart(1, kLayer, 4).ok());
    now += c.trunk;
    ASSERT_TRUE(FinishPart(0, 4).ok());
    ASSERT_TRUE(FinishPart(1, 4).ok());
    const DispatchTotals& totals = dispatcher_->totals();
    SCOPED_TRACE(testing::Message() << c.trunk << " " << c.receive[0] << " " << c.receive[1]);
    EXPECT_EQ(totals.exchange_own.count(), 2u);
    EXPECT_NEAR(totals.exchange_own.sum_seconds(), absl::ToDoubleSeconds(c.own), 1e-9);
    EXPECT_NEAR(totals.wait_seconds, absl::ToDoubleSeconds(c.receive[0] + c.receive[1]), 1e-9);
    EXPECT_NEAR(totals.computed_seconds, 0.006, 1e-9);
  }
}

TEST(RoutingTableTest, WorkersElsewhereAreNeitherInThisProcessNorOnThisHost) {
  const auto member = [](const char* name, bool on_host) {
    auto transport = std::make_shared<ScriptedTransport>();
    transport->name = name;
    return RouteMember{WorkerId(1), std::move(transport), on_host};
  };
  RoutingTable table;
  EXPECT_FALSE(table.HasWorkersElsewhere());
  table.members = {member("in_process", false), member("shm", true), member("grpc", true)};
  EXPECT_FALSE(table.HasWorkersElsewhere());
  table.members.push_back(member("grpc", false));
  EXPECT_TRUE(table.HasWorkersElsewhere());
}

}  // namespace
}  // namespace moepool
