// Membership under random histories of joins, loads, failures, losses and departures.
#include <algorithm>
#include <random>
#include <set>

#include "common/base/str.h"
#include "tests/unit/router/membership_testing.h"

namespace moepool {
namespace {

// Whatever happens in whatever order: an expert is routed only to a worker of the pool that holds it, with a
// live transport; never to one that was reported lost; and when all is quiet and memory suffices, there is a
// table.
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
        ASSERT_TRUE((*it)->held.contains(ref))
            << "round " << round << " step " << step << ": worker " << member.worker << " lacks " << ref.layer
            << "/" << ref.expert;
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
