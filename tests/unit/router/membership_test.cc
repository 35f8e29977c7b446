// Membership as a state machine: fake workers, links and clock, no threads.
#include <set>
#include <string>

#include "common/base/str.h"
#include "gmock/gmock.h"
#include "tests/unit/router/membership_testing.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST_F(MembershipTest, RefusesAnotherProtocolModelOrNumericClassWithBothValues) {
  Make();
  auto link = std::make_shared<FakeWorker>();
  WorkerDescription other = Describe("a");
  other.protocol_version = kPoolProtocolVersion - 1;
  auto status = pool_->Join(other, link).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(std::string(status.message()), StrCat("worker a speaks pool protocol ", kPoolProtocolVersion - 1,
                                                  ", the router ", kPoolProtocolVersion));

  other = Describe("a");
  other.model_digest = std::string(32, 'e');
  status = pool_->Join(other, link).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("6565"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("6464"));

  Join("b");
  other = Describe("a");
  other.numeric_class = "sm90-1";
  status = pool_->Join(other, link).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("sm90-1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("cpu-1"));
  EXPECT_EQ(link->id.value(), 0u);
}

TEST_F(MembershipTest, TableWaitsForLoadedAndTransportInEitherOrder) {
  for (const bool attach_first : {true, false}) {
    Make();
    EXPECT_THAT(pool_->WaitingFor(), HasSubstr("0 of 1"));
    auto a = Join("a");
    EXPECT_EQ(a->assigned.size(), static_cast<size_t>(kLayers * kExperts));
    if (attach_first)
      Attach(*a);
    else
      Load(a.get());
    EXPECT_EQ(pool_->Routes(), nullptr);
    EXPECT_THAT(pool_->WaitingFor(), HasSubstr("a"));
    if (attach_first)
      Load(a.get());
    else
      Attach(*a);
    ASSERT_NE(pool_->Routes(), nullptr);
    EXPECT_EQ(pool_->WaitingFor(), "");
    EXPECT_EQ(a->releases, 1);
  }
}

TEST_F(MembershipTest, RoutesSayWhoIsOnTheHost) {
  Make(/*min_workers=*/2);
  auto far = Join("far");
  auto near = std::make_shared<FakeWorker>();
  WorkerDescription description = Describe("near");
  description.on_host = true;
  ASSERT_TRUE(pool_->Join(description, near).ok());
  for (const auto& worker : {far, near}) {
    Attach(*worker);
    Load(worker.get());
  }
  ASSERT_NE(pool_->Routes(), nullptr);
  ASSERT_EQ(pool_->Routes()->members.size(), 2u);
  for (const RouteMember& member : pool_->Routes()->members) {
    EXPECT_EQ(member.on_host, member.worker == near->id);
  }
}

TEST_F(MembershipTest, FirstPlacementWaitsForMinWorkers) {
  Make(/*min_workers=*/2);
  auto a = Join("a");
  EXPECT_EQ(a->assignments, 0);
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("1 of 2"));
  auto b = Join("b");
  EXPECT_EQ(a->assignments, 1);
  EXPECT_EQ(b->assignments, 1);
  Attach(*a);
  Attach(*b);
  Load(a.get());
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("1 of 2 workers have loaded epoch 1"));
  Load(b.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1, 2}));
  // Afterwards one is enough.
  pool_->ReportLoss(b->id, absl::UnavailableError("gone"));
  EXPECT_EQ(pool_->Routes(), nullptr);
  Load(a.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1}));
}

TEST_F(MembershipTest, OldTableServesWhileAJoinerLoads) {
  Make();
  auto a = Join("a");
  Attach(*a);
  Load(a.get());
  const auto before = pool_->Routes();
  auto b = Join("b");
  Attach(*b);
  EXPECT_EQ(pool_->Routes(), before);
  Load(a.get());
  EXPECT_EQ(pool_->Routes(), before);
  EXPECT_EQ(a->held.size(), static_cast<size_t>(kLayers * kExperts))
      << "released while the old table is in force";
  Load(b.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1, 2}));
  EXPECT_LT(a->held.size(), static_cast<size_t>(kLayers * kExperts));
}

TEST_F(MembershipTest, LateWordsOfAnOldEpochAreIgnored) {
  Make();
  auto a = Join("a");
  Attach(*a);
  const uint64_t old_epoch = a->epoch;
  auto b = Join("b");
  Attach(*b);
  pool_->OnLoaded(a->id, old_epoch);
  pool_->OnLoadFailed(a->id, old_epoch, "late");
  Load(b.get());
  EXPECT_EQ(pool_->Routes(), nullptr);
  Load(a.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1, 2}));
}

TEST_F(MembershipTest, AJoinerThatDiesBeforeItServesLeavesTheTableAlone) {
  Make();
  auto a = Join("a");
  Attach(*a);
  Load(a.get());
  const auto before = pool_->Routes();
  auto b = Join("b");
  pool_->ReportLoss(b->id, absl::UnavailableError("gone"));
  EXPECT_EQ(pool_->Routes(), before);
  Load(a.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1}));
}

TEST_F(MembershipTest, LossBeyondTheMemoryOfTheOthersNamesBothValuesAndHealsWhenOneReturns) {
  Make();
  auto a = Join("a", 100);
  EXPECT_EQ(a->assignments, 0);  // 160 bytes do not fit 100
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("160"));
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("100"));
  auto b = Join("b", 100);
  auto ta = Attach(*a);
  Attach(*b);
  Load(a.get());
  Load(b.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1, 2}));
  pool_->ReportLoss(a->id, absl::UnavailableError("gone"));
  EXPECT_TRUE(ta->lost);
  EXPECT_TRUE(a->gone);
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("160"));
  auto c = Join("c", 100);
  Attach(*c);
  Load(b.get());
  Load(c.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{2, 3}));
}

TEST_F(MembershipTest, AWorkerThatCannotLoadIsGivenNothingMore) {
  Make();
  auto a = Join("a");
  auto b = Join("b");
  Attach(*a);
  Attach(*b);
  pool_->OnLoadFailed(b->id, b->epoch, "disk on fire");
  Load(a.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{1}));
  EXPECT_EQ(pool_->Workers().at(1).state, "unfit");
  pool_->ReportLoss(a->id, absl::UnavailableError("gone"));
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_THAT(pool_->WaitingFor(), HasSubstr("disk on fire"));
}

TEST_F(MembershipTest, MakesRoomWhereOldAndNewExceedTheMemory) {
  Make();
  auto a = Join("a", 160);
  Attach(*a);
  Load(a.get());
  auto b = Join("b", 160);
  Attach(*b);
  Load(b.get());
  Load(a.get());
  ASSERT_EQ(Routed(), (std::set<uint64_t>{1, 2}));
  auto c = Join("c", 160);  // shifts a's or b's range, so that one of them holds old and new
  Attach(*c);
  FakeWorker* shifted = nullptr;
  for (FakeWorker* worker : {a.get(), b.get()}) {
    for (const ExpertRef& ref : worker->held) {
      if (!worker->assigned.contains(ref)) shifted = worker;
    }
  }
  ASSERT_NE(shifted, nullptr);
  const int assignments = shifted->assignments;
  pool_->OnLoadFailed(shifted->id, shifted->epoch, "no memory");
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_EQ(shifted->assignments, assignments + 1);
  for (const ExpertRef& ref : shifted->held) EXPECT_TRUE(shifted->assigned.contains(ref));
  for (FakeWorker* worker : {a.get(), b.get(), c.get()}) Load(worker);
  EXPECT_NE(pool_->Routes(), nullptr);
}

TEST_F(MembershipTest, LeavingHandsOverBeforeGoodbye) {
  Make();
  auto a = Join("a");
  auto b = Join("b");
  for (auto* worker : {a.get(), b.get()}) Attach(*worker);
  for (auto* worker : {a.get(), b.get()}) Load(worker);
  const auto before = pool_->Routes();
  pool_->OnLeaving(a->id);
  EXPECT_EQ(pool_->Routes(), before);
  EXPECT_FALSE(a->gone);
  Load(b.get());
  EXPECT_EQ(Routed(), (std::set<uint64_t>{2}));
  EXPECT_TRUE(a->gone);
  EXPECT_EQ(pool_->Counters().losses, 0u);
  pool_->OnLeaving(b->id);  // nobody is left to take over
  EXPECT_TRUE(b->gone);
  EXPECT_EQ(pool_->Routes(), nullptr);
}

TEST_F(MembershipTest, AllMayLeaveAtOnce) {
  Make();
  auto a = Join("a");
  auto b = Join("b");
  for (auto* worker : {a.get(), b.get()}) Attach(*worker);
  for (auto* worker : {a.get(), b.get()}) Load(worker);
  pool_->OnLeaving(a->id);
  pool_->OnLeaving(b->id);
  EXPECT_TRUE(a->gone);
  EXPECT_TRUE(b->gone);
  EXPECT_TRUE(pool_->Workers().empty());
}

TEST_F(MembershipTest, SilenceAndMissingTransportsAreLoss) {
  Make();
  auto a = Join("a");
  auto b = Join("b");
  Attach(*a);
  for (int second = 1; second <= 31; ++second) {
    now_ += absl::Seconds(1);
    pool_->OnLoad(a->id, {});
    pool_->OnLoad(b->id, {});
    pool_->Tick();
  }
  EXPECT_TRUE(b->gone);
  EXPECT_THAT(b->reason, HasSubstr("transport"));
  EXPECT_FALSE(a->gone);
  now_ += absl::Seconds(5);
  pool_->Tick();
  EXPECT_FALSE(a->gone);
  now_ += absl::Milliseconds(1);
  pool_->Tick();
  EXPECT_TRUE(a->gone);
  EXPECT_THAT(a->reason, HasSubstr("silent"));
}

TEST_F(MembershipTest, ALostTransportIsFoundByTheTick) {
  Make();
  auto a = Join("a");
  auto transport = Attach(*a);
  Load(a.get());
  transport->lost = true;
  pool_->Tick();
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_TRUE(a->gone);
}

TEST_F(MembershipTest, ASecondOrOrphanTransportIsClosed) {
  Make();
  auto a = Join("a");
  Attach(*a);
  auto second = std::make_shared<FakeTransport>();
  EXPECT_EQ(pool_->AttachTransport(a->id, second).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(second->lost);
  auto orphan = std::make_shared<FakeTransport>();
  EXPECT_EQ(pool_->AttachTransport(WorkerId(99), orphan).code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(orphan->lost);
}

TEST_F(MembershipTest, WorkersAndRoundTrips) {
  Make();
  auto a = Join("a");
  Attach(*a);
  EXPECT_EQ(pool_->Workers().at(0).state, "loading");
  Load(a.get());
  for (const int us : {100, 200}) {
    ExchangeReport report;
    report.worker = a->id;
    report.rows = 3;
    report.round_trip = absl::Microseconds(us);
    pool_->ReportExchanges({&report, 1});
  }
  pool_->OnLoad(a->id, {.expert_bytes = 160, .dispatches = 3, .rows = 4, .busy_seconds = 0.5});
  const PoolWorkerInfo info = pool_->Workers().at(0);
  EXPECT_EQ(pool_->Counters().epoch, 1u);
  EXPECT_EQ(info.state, "ready");
  EXPECT_EQ(info.transport, "fake");
  EXPECT_EQ(info.expert_bytes, 160u);
  EXPECT_EQ(info.dispatches, 2u);
  EXPECT_DOUBLE_EQ(info.round_trip_us, 110);
  EXPECT_EQ(info.rows, 6u);
  EXPECT_EQ(info.experts_held, kLayers * kExperts);
  EXPECT_EQ(info.experts, "0-7");
  EXPECT_FALSE(info.gpu.has_value());
  GpuReading gpu;
  gpu.memory_used_bytes = 21;
  pool_->OnLoad(a->id, {.expert_bytes = 160, .dispatches = 3, .rows = 4, .busy_seconds = 0.5, .gpu = gpu});
  ASSERT_TRUE(pool_->Workers().at(0).gpu.has_value());
  EXPECT_EQ(pool_->Workers().at(0).gpu->memory_used_bytes, 21u);
}

TEST_F(MembershipTest, AWorkerThatIsAssignedNothingYetIsNotReady) {
  Make(/*min_workers=*/2);
  auto a = Join("a");
  Attach(*a);
  EXPECT_EQ(pool_->Workers().at(0).state, "joining");
  auto b = Join("b");
  EXPECT_EQ(pool_->Workers().at(0).state, "loading");
  Load(a.get());
  EXPECT_EQ(pool_->Workers().at(0).state, "ready");
}

TEST(FormatRangesTest, JoinsNeighbours) {
  EXPECT_EQ(FormatRanges({}), "");
  EXPECT_EQ(FormatRanges({3}), "3");
  EXPECT_EQ(FormatRanges({0, 1, 2, 7, 9, 10}), "0-2,7,9-10");
}

TEST_F(MembershipTest, ShutdownSaysGoodbyeOnce) {
  Make();
  auto a = Join("a");
  auto transport = Attach(*a);
  Load(a.get());
  pool_->Shutdown("maintenance");
  EXPECT_EQ(a->reason, "maintenance");
  EXPECT_TRUE(transport->lost);
  EXPECT_EQ(pool_->Routes(), nullptr);
  EXPECT_EQ(pool_->Join(Describe("b"), std::make_shared<FakeWorker>()).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace moepool
