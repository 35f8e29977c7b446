// A pool whose workers live in this process: for `moepool serve`, for the tools, and for tests that compare
// placements.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "common/backend/backend.h"
#include "common/base/mutex.h"
#include "common/model/model_source.h"
#include "expert_worker/executor.h"
#include "expert_worker/expert_store.h"
#include "router/pool.h"
#include "router/worker_totals.h"

namespace moepool {

class LocalPool : public ExpertPool {
 public:
  // Loads all experts, shared out over `workers` (at least 1) by PlanPlacement. `backend` outlives the pool
  // and may be the trunk's: a dispatch is computed in the engine's own thread, and with one worker the trunk
  // needs none where the backend can run a layer's experts from what it chose itself.
  static absl::StatusOr<std::unique_ptr<LocalPool>> Create(std::shared_ptr<const ModelSource> source,
                                                           Backend* backend, int workers);

  std::shared_ptr<const RoutingTable> Routes() override EXCLUDES(mutex_);
  std::string WaitingFor() override EXCLUDES(mutex_);
  // A worker here shares the engine's fate, so a dispatch that fails is a bug: the pool stays without routes
  // from then on.
  void ReportLoss(WorkerId worker, const absl::Status& cause) override EXCLUDES(mutex_);
  void ReportExchanges(std::span<const ExchangeReport> reports) override EXCLUDES(mutex_);
  std::vector<PoolWorkerInfo> Workers() override;

 private:
  struct Worker {
    std::unique_ptr<ExpertStore> store;
    std::unique_ptr<Executor> executor;
    std::shared_ptr<ExpertTransport> transport;
  };
  LocalPool() = default;
  // Fills in what lets a trunk on `backend` run the only worker's experts itself, where the backend can.
  static absl::Status ShareSets(const ExpertStore& store, Backend* backend, RoutingTable* routes);

  std::shared_ptr<const ModelSource> source_;
  std::string backend_name_;
  std::vector<Worker> workers_;
  Mutex mutex_;
  std::shared_ptr<const RoutingTable> routes_ GUARDED_BY(mutex_);
  std::string waiting_for_ GUARDED_BY(mutex_);
  std::vector<WorkerTotals> totals_ GUARDED_BY(mutex_);  // of worker id 1, 2, …
  const absl::Time created_ = absl::Now();
};

}  // namespace moepool
