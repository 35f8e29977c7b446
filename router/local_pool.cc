// See local_pool.h.
#include "router/local_pool.h"

#include <cstring>
#include <utility>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/model/expert_tensors.h"
#include "common/transport/in_process.h"
#include "router/placement.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<LocalPool>> LocalPool::Create(std::shared_ptr<const ModelSource> source,
                                                             Backend* backend, int workers) {
  if (workers < 1) return absl::InvalidArgumentError(StrCat("workers are ", workers, ", must be at least 1"));
  const ModelConfig& config = source->Config();
  MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest digest, source->Digest());
  uint64_t digest8 = 0;
  std::memcpy(&digest8, digest.data(), sizeof(digest8));
  const FrameLimits limits{config.hidden, config.layers, config.experts, digest8};

  std::unique_ptr<LocalPool> pool(new LocalPool);
  pool->source_ = std::move(source);
  pool->backend_name_ = std::string(backend->Name());
  std::vector<PlacementWorker> placed;
  for (int w = 0; w < workers; ++w) placed.push_back({WorkerId(static_cast<uint64_t>(w + 1)), 0});
  const std::vector<uint64_t> bytes = ExpertBytes(*pool->source_);
  MOEPOOL_ASSIGN_OR_RETURN(const PlacementPlan plan,
                           PlanPlacement({placed, bytes, config.layers, config.experts}));

  auto routes = std::make_shared<RoutingTable>();
  routes->epoch = 1;
  routes->member = plan.owner;
  for (int w = 0; w < workers; ++w) {
    Worker worker;
    worker.store = std::make_unique<ExpertStore>(pool->source_.get(), backend, 0);
    std::vector<ExpertRef> share;
    for (int layer = 0; layer < config.layers; ++layer) {
      for (int expert = 0; expert < config.experts; ++expert) {
        if (plan.owner[static_cast<size_t>(layer) * config.experts + expert] == w)
          share.push_back({layer, expert});
      }
    }
    MOEPOOL_RETURN_IF_ERROR(worker.store->LoadAll(share, /*threads=*/0, [] { return false; }));
    worker.executor = std::make_unique<Executor>(backend, worker.store.get(), limits);
    Executor* executor = worker.executor.get();
    worker.transport =
        MakeInProcessTransport([executor](std::span<const uint8_t> frame, const FrameWriter& write) {
          executor->Handle(frame, write);
        });
    routes->members.push_back({placed[static_cast<size_t>(w)].id, worker.transport});
    pool->workers_.push_back(std::move(worker));
  }
  if (workers == 1) {
    MOEPOOL_RETURN_IF_ERROR(ShareSets(*pool->workers_[0].store, backend, routes.get()));
  }
  {
    MutexLock lock(&pool->mutex_);
    pool->routes_ = std::move(routes);
    pool->totals_.resize(pool->workers_.size());
  }
  return pool;
}

absl::Status LocalPool::ShareSets(const ExpertStore& store, Backend* backend, RoutingTable* routes) {
  for (int layer = 0; layer < store.layers(); ++layer) {
    MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const ExpertSet> set,
                             backend->Experts().MakeSet(store.Layer(layer)->experts));
    if (set == nullptr) {
      routes->sets.clear();
      return absl::OkStatus();
    }
    routes->sets.push_back(std::move(set));
  }
  routes->backend = backend;
  return absl::OkStatus();
}

std::shared_ptr<const RoutingTable> LocalPool::Routes() {
  MutexLock lock(&mutex_);
  return routes_;
}

std::string LocalPool::WaitingFor() {
  MutexLock lock(&mutex_);
  return waiting_for_;
}

void LocalPool::ReportLoss(WorkerId worker, const absl::Status& cause) {
  MutexLock lock(&mutex_);
  routes_.reset();
  waiting_for_ = StrCat("local worker ", worker.value(), " failed: ", ToStd(cause.message()));
}

void LocalPool::ReportExchanges(std::span<const ExchangeReport> reports) {
  const absl::Time now = absl::Now();
  MutexLock lock(&mutex_);
  for (const ExchangeReport& report : reports) totals_[report.worker.value() - 1].Add(report, now);
}

std::vector<PoolWorkerInfo> LocalPool::Workers() {
  const absl::Time now = absl::Now();
  std::vector<PoolWorkerInfo> infos;
  MutexLock lock(&mutex_);
  for (size_t w = 0; w < workers_.size(); ++w) {
    PoolWorkerInfo info;
    info.id = w + 1;
    info.name = StrCat("local-", w);
    info.state = "ready";
    info.transport = "in_process";
    info.backend = backend_name_;
    info.expert_bytes = workers_[w].store->bytes();
    const std::vector<ExpertRef> held = workers_[w].store->Held();
    info.experts_held = static_cast<int32_t>(held.size());
    totals_[w].Describe(now, now - created_, &info);
    infos.push_back(std::move(info));
  }
  return infos;
}

}  // namespace moepool
