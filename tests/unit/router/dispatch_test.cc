// The exchange of a layer against scripted workers: parts in any order and more than once, workers that
// refuse, fall silent or lie, and sums that no placement changes.
#include "router/dispatch.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "tests/unit/router/dispatch_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST_F(DispatchTest, SharedRowsJoinTheRoutedSumBeforeTheResidual) {
  skip_[3] = 1;
  std::vector<float> shared(kRows * kHidden);
  std::mt19937 random(7);
  std::uniform_real_distribution<float> uniform(-2, 2);
  for (float& value : shared) value = uniform(random);
  const std::vector<float> residual = std::exchange(residual_, std::vector<float>(kRows * kHidden));
  const std::vector<float> routed = Expected();  // 0 + routed
  residual_ = residual;
  out_ = residual;
  faults_.assign(kRows, 0);
  ASSERT_TRUE(Begin().ok());
  ASSERT_TRUE(dispatcher_->Finish(0, &backend_->Trunk(), shared.data(), out_.data(), faults_).ok());
  for (size_t i = 0; i < out_.size(); ++i) {
    const bool skipped = i / kHidden == 3;
    EXPECT_EQ(out_[i], skipped ? residual[i] : residual[i] + (routed[i] + shared[i])) << i;
  }
}

TEST_F(DispatchTest, SumsAreTheTreesForEveryPlacement) {
  for (uint32_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    MakeRows(seed);
    for (const int workers : {1, 2, 3, 5, 16}) {
      Place(workers, seed * 31);
      ASSERT_TRUE(Exchange().ok());
      ASSERT_EQ(out_, Expected()) << workers << " workers";
      for (const auto& transport : transports_) EXPECT_LE(transport->sent.size(), 1u);
    }
  }
}

TEST_F(DispatchTest, DispatchNamesRouterEpochLayerAndBudget) {
  timeouts_ = {absl::Seconds(3), absl::Milliseconds(7)};
  Place(1, 1);
  ASSERT_TRUE(Exchange().ok());
  const auto header = DecodeHeader(transports_[0]->sent.at(0));
  ASSERT_TRUE(header.ok());
  EXPECT_EQ(header->router_id, 77u);
  EXPECT_EQ(header->incarnation, 88u);
  EXPECT_EQ(header->epoch, 5u);
  EXPECT_EQ(header->layer, 1u);
  EXPECT_EQ(header->rows, 9u);
  EXPECT_EQ(header->parts, 9u);  // one worker holds all: one part a row
  EXPECT_EQ(header->budget_us, 3'000'000u + 9 * 7'000);
  ASSERT_EQ(pool_.reports.size(), 1u);
  EXPECT_EQ(pool_.reports[0].worker, WorkerId(100));
}

// Workers of this host with even shares are told how many they are, and which; others are told nothing.
TEST_F(DispatchTest, SaysWhereTheWorkersOfTheHostHaveEvenShares) {
  struct Case {
    std::vector<int32_t> experts;  // of each row: below 6 on the first worker
    bool second_on_host;
    int workers_said[2];
  };
  const Case cases[] = {{{0, 1, 7, 8}, true, {2, 2}},
                        {{0, 1, 2, 8}, true, {0, 0}},
                        {{6, 7, 8, 9}, true, {0, 0}},
                        {{0, 1, 7, 8}, false, {1, 0}}};
  for (const Case& c : cases) {
    Place(2, 1);
    auto table = std::make_shared<RoutingTable>(*pool_.routes);
    for (int i = 0; i < kLayers * kExperts; ++i) table->member[i] = i % kExperts < 6 ? 0 : 1;
    table->members[0].on_host = true;
    table->members[1].on_host = c.second_on_host;
    pool_.routes = table;
    for (int row = 0; row < kRows; ++row) {
      for (int i = 0; i < kPerToken; ++i) selected_[row * kPerToken + i].expert = c.experts[i];
    }
    ASSERT_TRUE(Exchange().ok());
    EXPECT_EQ(out_, Expected());
    for (int w = 0; w < 2; ++w) {
      if (transports_[w]->sent.empty()) continue;
      const auto header = DecodeHeader(transports_[w]->sent.at(0));
      ASSERT_TRUE(header.ok());
      EXPECT_EQ(header->host_workers, c.workers_said[w]) << c.second_on_host << ", worker " << w;
      if (header->host_workers == 2) {
        EXPECT_EQ(header->host_slot, w);
      }
    }
  }
}

TEST_F(DispatchTest, PartsArriveInAnyOrderInSeveralFramesAndTwice) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Place(2, seed);
    for (const auto& transport : transports_) {
      transport->worker = [seed](const Frame& dispatch) {
        const Answer answer(dispatch);
        std::mt19937 random(seed);
        Script script;
        std::vector<size_t> order(answer.parts());
        std::iota(order.begin(), order.end(), 0);
        std::shuffle(order.begin(), order.end(), random);
        for (const size_t part : order) {
          const size_t count = std::min<size_t>(1 + random() % 3, answer.parts() - part);  // they overlap
          script.frames.push_back(answer.Reply(part, count));
        }
        return script;
      };
    }
    ASSERT_TRUE(Exchange().ok());
    EXPECT_EQ(out_, Expected());
    for (const auto& transport : transports_) EXPECT_EQ(transport->open(), 0u);
  }
}

TEST_F(DispatchTest, TheFirstAnswerToAPartStands) {
  transports_[1]->worker = [](const Frame& dispatch) {
    Answer answer(dispatch);
    Script script;
    script.frames.push_back(answer.Reply(0, 1));
    answer.data[0] = 1e9f;
    answer.faults[0] = 1;
    script.frames.push_back(answer.All());
    return script;
  };
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, Expected());
  EXPECT_EQ(faults_, std::vector<uint8_t>(kRows));
}

TEST_F(DispatchTest, PartsBeyondThoseAskedForAreALoss) {
  transports_[1]->worker = [](const Frame& dispatch) {
    const Answer answer(dispatch);
    Frame frame = answer.All();
    const uint32_t first = 1;
    std::memcpy(frame.data() + offsetof(FrameHeader, first_part), &first, sizeof(first));
    return Script{{frame}};
  };
  ExpectLost(Exchange(), 101);
  EXPECT_THAT(std::string(pool_.causes[0].message()), HasSubstr("were asked for"));
  pool_.losses.clear();

  transports_[1]->worker = [](const Frame& dispatch) {
    Frame frame = Answer(dispatch).All();
    const uint32_t first = std::numeric_limits<uint32_t>::max();
    std::memcpy(frame.data() + offsetof(FrameHeader, first_part), &first, sizeof(first));
    return Script{{frame}};
  };
  EXPECT_EQ(Exchange().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(pool_.losses, ElementsAre(101));
}

TEST_F(DispatchTest, RepliesOfAnotherModelRouterLayerOrDispatchAreALoss) {
  const std::vector<std::pair<std::string, std::function<void(FrameHeader*)>>> lies = {
      {"digest", [](FrameHeader* h) { h->model_digest += 1; }},
      {"layer", [](FrameHeader* h) { h->layer = 2; }},
      {"dispatch", [](FrameHeader* h) { h->dispatch_id += 1; }},
      {"router", [](FrameHeader* h) { h->incarnation += 1; }},
      {"router", [](FrameHeader* h) { h->router_id += 1; }},
  };
  for (const auto& [word, lie] : lies) {
    SCOPED_TRACE(word);
    Place(3, 1);
    transports_[2]->worker = [&lie = lie](const Frame& dispatch) {
      Answer answer(dispatch);
      lie(&answer.header);
      return Script{{answer.All()}};
    };
    pool_.losses.clear();
    pool_.causes.clear();
    ExpectLost(Exchange(), 102);
    EXPECT_THAT(std::string(pool_.causes[0].message()), HasSubstr(word));
    ExpectRecovers();
  }
}

TEST_F(DispatchTest, EpochOfAReplyDoesNotMatter) {
  transports_[0]->worker = [](const Frame& dispatch) {
    Answer answer(dispatch);
    answer.header.epoch += 9;
    return Script{{answer.All()}};
  };
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, Expected());
}

TEST_F(DispatchTest, OneOfThreeFailsAfterTheOthersHaveAnswered) {
  for (const absl::Status& cause :
       {absl::UnavailableError("connection reset"), absl::DeadlineExceededError("no reply")}) {
    SCOPED_TRACE(cause);
    Place(3, 1);
    pool_.losses.clear();
    transports_[2]->worker = [&cause](const Frame& dispatch) {
      return Script{{Answer(dispatch).Reply(0, 1)}, cause};  // all but one part
    };
    ExpectLost(Exchange(), 102);
    ExpectRecovers();
  }
}

TEST_F(DispatchTest, TheFirstToFailLeavesTheOthersForgotten) {
  transports_[0]->worker = [](const Frame&) { return Script{{}, absl::UnavailableError("killed")}; };
  ExpectLost(Exchange(), 100);
  EXPECT_THAT(pool_.reports, IsEmpty());
  ExpectRecovers();
}

TEST_F(DispatchTest, LossInSendIsReportedAndNothingStaysOpen) {
  for (const absl::Status& cause :
       {absl::UnavailableError("gone"), absl::DeadlineExceededError("all 4 credits stayed used up")}) {
    SCOPED_TRACE(cause);
    Place(3, 1);
    pool_.losses.clear();
    transports_[1]->send_status = cause;
    ExpectLost(Exchange(), 101);
    EXPECT_THAT(transports_[2]->sent, IsEmpty());
    ExpectRecovers();
  }
}

TEST_F(DispatchTest, RefusalIsALoss) {
  transports_[1]->worker = [](const Frame& dispatch) {
    Frame frame;
    EncodeRefusal(*DecodeHeader(dispatch), absl::NotFoundError("expert 3 is not held"), &frame);
    return Script{{frame}};
  };
  const absl::Status status = Exchange();
  ExpectLost(status, 101);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expert 3 is not held"));
  EXPECT_EQ(pool_.causes[0].code(), absl::StatusCode::kNotFound);
  ExpectRecovers();
}

// A new placement came into force during the step, and the worker has released what the old one gave it.
TEST_F(DispatchTest, RefusalOfAReleasedExpertIsNoLoss) {
  for (const bool gone : {false, true}) {
    SCOPED_TRACE(gone);
    Place(3, 1);
    auto newer = std::make_shared<RoutingTable>(*pool_.routes);
    newer->epoch = 6;
    const auto refuse = [&](const Frame& dispatch) {
      pool_.routes = gone ? nullptr : newer;
      Frame frame;
      EncodeRefusal(*DecodeHeader(dispatch), absl::NotFoundError("expert 3 is not held"), &frame);
      return Script{{frame}};
    };
    transports_[1]->worker = refuse;
    const absl::Status status = Exchange();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("newer routes"));
    EXPECT_THAT(pool_.losses, IsEmpty());
    EXPECT_EQ(dispatcher_->totals().losses, 0u);
    EXPECT_EQ(out_, residual_);
    for (const auto& transport : transports_) EXPECT_EQ(transport->open(), 0u);
    pool_.routes = newer;
    ExpectRecovers();
  }
}

TEST_F(DispatchTest, GarbageIsALoss) {
  const std::vector<Worker> liars = {
      [](const Frame&) { return Script{{Frame(40, 0xAB)}}; },
      [](const Frame&) { return Script{{Frame()}}; },
      [](const Frame& dispatch) { return Script{{dispatch}}; },
      [](const Frame& dispatch) {
        Frame frame = Answer(dispatch).All();
        frame.resize(frame.size() - 4);
        return Script{{frame}};
      },
  };
  for (size_t i = 0; i < liars.size(); ++i) {
    SCOPED_TRACE(i);
    Place(2, 1);
    pool_.losses.clear();
    transports_[1]->worker = liars[i];
    ExpectLost(Exchange(), 101);
    ExpectRecovers();
  }
}

TEST_F(DispatchTest, DuplicatesForEverEndWithTheDeadline) {
  timeouts_ = {absl::ZeroDuration(), absl::ZeroDuration()};
  Place(2, 1);
  transports_[0]->worker = [](const Frame& dispatch) {
    const Answer answer(dispatch);
    return Script{std::vector<Frame>(1000, answer.Reply(0, 1))};
  };
  ExpectLost(Exchange(), 100);
  EXPECT_THAT(std::string(pool_.causes[0].message()), HasSubstr("duplicates"));
  EXPECT_EQ(transports_[0]->kept(), 0u);
}

TEST_F(DispatchTest, DuplicatesAreNotKept) {
  Place(2, 1);
  transports_[0]->worker = [](const Frame& dispatch) {
    const Answer answer(dispatch);
    Script script{std::vector<Frame>(1000, answer.Reply(0, 1))};
    script.frames.push_back(answer.All());
    return script;
  };
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, Expected());
  EXPECT_EQ(transports_[0]->most_kept, 1u);
  EXPECT_EQ(transports_[0]->kept(), 0u);
}

// The exchange's own time is what remains beside the longest of the workers' and the trunk's computing.
TEST_F(DispatchTest, OwnTimeLeavesOutWhatIsComputedMeanwhile) {
  struct Case {
    uint32_t first_us, second_us;  // that the workers say they computed
    absl::Duration trunk;          // between Begin and Finish
    absl::Duration own;
  };
  const uint32_t for_ever = std::numeric_limits<uint32_t>::max();
  for (const Case& c : {Case{0, 0, absl::ZeroDuration(), absl::Milliseconds(2)},
                        Case{700, 1600, absl::ZeroDuration(), absl::Microseconds(400)},
                        Case{700, 1600, absl::Milliseconds(1), absl::Microseconds(1400)},
                        Case{700, 1600, absl::Milliseconds(5), absl::Milliseconds(2)},
                        Case{for_ever, 0, absl::Milliseconds(5), absl::ZeroDuration()}}) {
    SCOPED_TRACE(testing::Message() << c.first_us << " us, " << c.second_us << " us, " << c.trunk);
    absl::Time now = absl::UnixEpoch();
    clock_ = [&now] { return now; };
    Place(2, 1);
    for (int w = 0; w < 2; ++w) {
      transports_[w]->worker = [&, w](const Frame& dispatch) {
        now += absl::Milliseconds(1);  // each send takes one
        Answer answer(dispatch);
        answer.header.budget_us = w == 0 ? c.first_us : c.second_us;
        return Script{{answer.All()}};
      };
    }
    out_ = residual_;
    faults_.assign(kRows, 0);
    ASSERT_TRUE(Begin().ok());
    now += c.trunk;
    ASSERT_TRUE(dispatcher_->Finish(0, &backend_->Trunk(), nullptr, out_.data(), faults_).ok());
    const DispatchTotals& totals = dispatcher_->totals();
    EXPECT_EQ(totals.exchange.count(), 1u);
    EXPECT_EQ(totals.exchange_own.count(), 1u);
    EXPECT_DOUBLE_EQ(totals.exchange.sum_seconds(), absl::ToDoubleSeconds(absl::Milliseconds(2) + c.trunk));
    EXPECT_DOUBLE_EQ(totals.exchange_own.sum_seconds(), absl::ToDoubleSeconds(c.own));
  }
}

// Exchanges take far longer than their workers say they compute, as where they get in one another's way. Only
// workers of this host are told so, and only where nobody else has a part in it.
TEST_F(DispatchTest, WorkersOfAContendedHostAreToldToSleep) {
  for (const std::string second : {"shm", "grpc"}) {
    absl::Time now = absl::UnixEpoch();
    clock_ = [&now] { return now; };
    Place(2, 1);
    transports_[0]->name = "shm";
    transports_[1]->name = second;
    for (const auto& transport : transports_) {
      transport->worker = [&](const Frame& dispatch) {
        now += absl::Milliseconds(2);
        Answer answer(dispatch);
        answer.header.budget_us = 1000;
        return Script{{answer.All()}};
      };
    }
    for (int i = 0; i < 72; ++i) {
      for (const auto& transport : transports_) transport->sent.clear();
      ASSERT_TRUE(Exchange().ok());
      for (const auto& transport : transports_) {
        const auto header = DecodeHeader(transport->sent.at(0));
        ASSERT_TRUE(header.ok());
        EXPECT_EQ(header->flags, second == "shm" && i >= 64 ? kSleepAtOnce : 0u)
            << second << ", exchange " << i;
      }
    }
    EXPECT_EQ(dispatcher_->totals().asleep, second == "shm" ? 8u : 0u);
  }
}

TEST_F(DispatchTest, WorkersInThisProcessHaveNoOwnTime) {
  Place(2, 1);
  transports_[1]->name = "in_process";
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(dispatcher_->totals().exchange.count(), 1u);
  EXPECT_EQ(dispatcher_->totals().exchange_own.count(), 0u);
}

// Another worker may have kept us until after the deadline of one that had answered in time.
TEST_F(DispatchTest, FramesThatHaveArrivedAreTakenAfterTheDeadline) {
  timeouts_ = {absl::ZeroDuration(), absl::ZeroDuration()};
  Place(3, 1);
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, Expected());
}

TEST_F(DispatchTest, FaultsReachTheRowsOfTheirParts) {
  for (uint32_t seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Place(3, seed);
    std::set<int> faulty;  // rows
    for (const auto& transport : transports_) {
      transport->worker = [&faulty, seed](const Frame& dispatch) {
        Answer answer(dispatch);
        const FrameBytes aligned = CopyFrame(dispatch);
        const auto view = DecodeDispatch(aligned.bytes, kLimits);
        const size_t part = seed % answer.parts();
        answer.faults[part] = 1;
        // Rows of the step are told by their activations: a dispatch numbers its own.
        const float mark = view->x.f32[view->parts[part].row * kHidden];
        faulty.insert(static_cast<int>(mark));
        return Script{{answer.All()}};
      };
    }
    for (size_t row = 0; row < kRows; ++row) x_[row * kHidden] = static_cast<float>(row);
    ASSERT_TRUE(Exchange().ok());
    ASSERT_FALSE(faulty.empty());
    for (int row = 0; row < kRows; ++row)
      EXPECT_EQ(faults_[static_cast<size_t>(row)], faulty.count(row)) << row;
  }
}

TEST_F(DispatchTest, SkippedRowsAreNotSentAndNotChanged) {
  skip_ = {1, 0, 0, 1, 0, 1, 0, 0, 1};
  x_[3 * kHidden + 2] = std::numeric_limits<float>::quiet_NaN();
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, Expected());
  for (const auto& transport : transports_) {
    for (const Frame& frame : transport->sent) EXPECT_LE(DecodeHeader(frame)->rows, 5u);
  }
  EXPECT_EQ(faults_, std::vector<uint8_t>(kRows));
}

TEST_F(DispatchTest, NothingIsSentWhereAllRowsAreSkipped) {
  skip_.assign(kRows, 1);
  ASSERT_TRUE(Exchange().ok());
  EXPECT_EQ(out_, residual_);
  for (const auto& transport : transports_) EXPECT_THAT(transport->sent, IsEmpty());
}

}  // namespace
}  // namespace moepool
