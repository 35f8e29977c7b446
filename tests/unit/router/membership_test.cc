// Membership as a state machine: fake workers, links and clock, no threads.
#include "router/membership.h"

#include <random>
#include <set>
#include <string>

#include "common/base/str.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

constexpr int kLayers = 2;
constexpr int kExperts = 8;
constexpr uint64_t kExpertBytes = 10;

class FakeTransport final : public ExpertTransport {
 public:
  std::string_view Name() const override { return "fake"; }
  absl::Status Send(uint64_t, std::span<const uint8_t>, absl::Time) override { return absl::OkStatus(); }
  absl::StatusOr<FrameBytes> Receive(uint64_t, absl::Time) override { return absl::DeadlineExceededError("fake"); }
  void Forget(uint64_t) override {}
  void Close(const absl::Status&) override { lost = true; }
  bool Lost() const override { return lost; }
  bool lost = false;
};

// Holds experts the way a worker does: adds what it is assigned when it loads, drops the rest on Release.
class FakeWorker final : public WorkerLink {
 public:
  void Welcome(WorkerId worker) override {
    EXPECT_EQ(id.value(), 0u);
    id = worker;
  }
  void Assign(uint64_t new_epoch, std::vector<ExpertRef> experts) override {
    EXPECT_NE(id.value(), 0u) << "assigned before it was welcomed";
    EXPECT_FALSE(gone);
    EXPECT_GE(new_epoch, epoch);
    epoch = new_epoch;
    assigned = {experts.begin(), experts.end()};
    ++assignments;
  }
  void Release(uint64_t released) override {
    if (released != epoch) return;
    std::erase_if(held, [&](const ExpertRef& ref) { return !assigned.contains(ref); });
    ++releases;
  }
  void Goodbye(const std::string& why) override {
    EXPECT_FALSE(gone);
    gone = true;
    reason = why;
  }
  void Load() { held.insert(assigned.begin(), assigned.end()); }

  WorkerId id;
  uint64_t epoch = 0;
  std::set<ExpertRef> assigned;
  std::set<ExpertRef> held;
  int assignments = 0;
  int releases = 0;
  bool gone = false;
  std::string reason;
};

class MembershipTest : public testing::Test {
 protected:
  void Make(int min_workers = 1) {
    MembershipOptions options;
    options.layers = kLayers;
    options.experts = kExperts;
    options.expert_bytes.assign(kLayers * kExperts, kExpertBytes);
    options.model_digest = std::string(32, 'd');
    options.min_workers = min_workers;
    options.heartbeat = absl::Seconds(1);
    options.missed_heartbeats = 5;
    options.attach_limit = absl::Seconds(30);
    options.clock = [this] { return now_; };
    pool_ = std::make_unique<Membership>(std::move(options));
  }
  WorkerDescription Describe(std::string name, uint64_t limit = 0) {
    return {kPoolProtocolVersion, std::string(32, 'd'), std::move(name), "cpu", "cpu-1", limit};
  }
  std::shared_ptr<FakeWorker> Join(std::string name, uint64_t limit = 0) {
    auto worker = std::make_shared<FakeWorker>();
    auto id = pool_->Join(Describe(std::move(name), limit), worker);
    EXPECT_TRUE(id.ok()) << id.status();
    EXPECT_EQ(*id, worker->id);
    return worker;
  }
  std::shared_ptr<FakeTransport> Attach(const FakeWorker& worker) {
    auto transport = std::make_shared<FakeTransport>();
    EXPECT_TRUE(pool_->AttachTransport(worker.id, transport).ok());
    return transport;
  }
  void Load(FakeWorker* worker) {
    worker->Load();
    pool_->OnLoaded(worker->id, worker->epoch);
  }
  // Ids of those that some expert is routed to.
  std::set<uint64_t> Routed() {
    std::set<uint64_t> routed;
    const auto table = pool_->Routes();
    if (table == nullptr) return routed;
    EXPECT_EQ(table->member.size(), static_cast<size_t>(kLayers * kExperts));
    for (const int32_t member : table->member) routed.insert(table->members.at(member).worker.value());
    return routed;
  }

  absl::Time now_ = absl::UnixEpoch();
  std::unique_ptr<Membership> pool_;
};

TEST_F(MembershipTest, RefusesAnotherProtocolModelOrNumericClassWithBothValues) {
  Make();
  auto link = std::make_shared<FakeWorker>();
  WorkerDescription other = Describe("a");
  other.protocol_version = 7;
  auto status = pool_->Join(other, link).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("7"));

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
    if (attach_first) Attach(*a); else Load(a.get());
    EXPECT_EQ(pool_->Routes(), nullptr);
    EXPECT_THAT(pool_->WaitingFor(), HasSubstr("a"));
    if (attach_first) Load(a.get()); else Attach(*a);
    ASSERT_NE(pool_->Routes(), nullptr);
    EXPECT_EQ(pool_->WaitingFor(), "");
    EXPECT_EQ(a->releases, 1);
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
  EXPECT_EQ(a->held.size(), static_cast<size_t>(kLayers * kExperts)) << "released while the old table is in force";
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
  pool_->ReportRoundTrip(a->id, absl::Microseconds(100));
  pool_->ReportRoundTrip(a->id, absl::Microseconds(200));
  pool_->OnLoad(a->id, {.expert_bytes = 160, .dispatches = 3, .rows = 4, .busy_seconds = 0.5});
  const PoolWorkerInfo info = pool_->Workers().at(0);
  EXPECT_EQ(pool_->Counters().epoch, 1u);
  EXPECT_EQ(info.state, "ready");
  EXPECT_EQ(info.transport, "fake");
  EXPECT_EQ(info.expert_bytes, 160u);
  EXPECT_EQ(info.dispatches, 2u);
  EXPECT_DOUBLE_EQ(info.round_trip_us, 110);
  EXPECT_EQ(info.experts_held, kLayers * kExperts);
  EXPECT_EQ(info.experts, "0-7");
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

// Whatever happens in whatever order: an expert is routed only to a worker of the pool that holds it, with a live
// transport; never to one that was reported lost; and when all is quiet and memory suffices, there is a table.
TEST_F(MembershipTest, PropertyNeverRoutesToAWorkerThatDoesNotHoldTheExpert) {
  constexpr uint64_t kSeed = 20240611;
  RecordProperty("seed", static_cast<int>(kSeed));
  std::mt19937_64 random(kSeed);
  int tables = 0;
  for (int round = 0; round < 60; ++round) {
    Make(1 + round % 3);
    const bool limited = round % 2 == 1;
    std::vector<std::shared_ptr<FakeWorker>> workers;
    const auto live = [&] {
      std::vector<FakeWorker*> out;
      for (const auto& worker : workers) {
        if (!worker->gone) out.push_back(worker.get());
      }
      return out;
    };
    std::set<uint64_t> reported_lost;
    std::set<uint64_t> attached;
    for (int step = 0; step < 120; ++step) {
      const std::vector<FakeWorker*> now = live();
      FakeWorker* worker = now.empty() ? nullptr : now[random() % now.size()];
      const int action = static_cast<int>(random() % 16);
      if (worker == nullptr || action == 0) {
        if (now.size() < 6) workers.push_back(Join(StrCat("w", step), limited ? 40 + random() % 100 : 0));
      } else if (action <= 4) {
        if (attached.insert(worker->id.value()).second) Attach(*worker);
      } else if (action <= 11) {
        if (worker->epoch != 0) Load(worker);
      } else if (action == 12) {
        pool_->OnLoadFailed(worker->id, worker->epoch, "failed");
      } else if (action == 13) {
        const WorkerId id = worker->id;
        reported_lost.insert(id.value());
        pool_->ReportLoss(id, absl::UnavailableError("killed"));
      } else if (action == 14) {
        pool_->OnLeaving(worker->id);
      } else {
        now_ += absl::Milliseconds(random() % 3000);
        for (FakeWorker* each : now) {
          if (random() % 4 != 0) pool_->OnLoad(each->id, {});
        }
        pool_->Tick();
      }
      const auto table = pool_->Routes();
      EXPECT_EQ(table == nullptr, pool_->WaitingFor() != "");
      if (table == nullptr) continue;
      ++tables;
      for (size_t i = 0; i < table->member.size(); ++i) {
        const RouteMember& member = table->members.at(table->member[i]);
        ASSERT_FALSE(reported_lost.contains(member.worker.value())) << "round " << round << " step " << step;
        const auto it = std::find_if(workers.begin(), workers.end(),
                                     [&](const auto& w) { return w->id == member.worker; });
        ASSERT_NE(it, workers.end());
        ASSERT_FALSE((*it)->gone);
        ASSERT_FALSE(member.transport->Lost());
        const ExpertRef ref{static_cast<int32_t>(i / kExperts), static_cast<int32_t>(i % kExperts)};
        ASSERT_TRUE((*it)->held.contains(ref)) << "round " << round << " step " << step << ": worker "
                                               << member.worker << " lacks " << ref.layer << "/" << ref.expert;
      }
    }
    // Quiet: three fresh workers that work.
    for (int i = 0; i < 3; ++i) workers.push_back(Join(StrCat("fresh", i), limited ? 160 : 0));
    for (FakeWorker* each : live()) {
      if (attached.insert(each->id.value()).second) Attach(*each);
    }
    for (FakeWorker* each : live()) {
      if (each->epoch != 0) Load(each);
    }
    EXPECT_NE(pool_->Routes(), nullptr) << "round " << round << ": " << pool_->WaitingFor();
    pool_->Shutdown("end");
  }
  EXPECT_GT(tables, 500);  // the rounds do exercise tables
}

}  // namespace
}  // namespace moepool
