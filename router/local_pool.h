// A pool whose workers live in this process: for `moepool serve`, for the tools, and for tests that compare placements.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/model/model_source.h"
#include "expert_worker/executor.h"
#include "expert_worker/expert_store.h"
#include "router/pool.h"

namespace moepool {

class LocalPool : public ExpertPool {
 public:
  // Loads all experts, shared out over `workers` (at least 1) by PlanPlacement. `backend` outlives the pool and may be the
  // trunk's: a dispatch is computed in the engine's own thread.
  static absl::StatusOr<std::unique_ptr<LocalPool>> Create(std::shared_ptr<const ModelSource> source, Backend* backend,
                                                           int workers);

  std::shared_ptr<const RoutingTable> Routes() override { return routes_; }
  std::string WaitingFor() override { return ""; }
  // Cannot happen to workers in the same process; a bug, which is logged by the caller. Nothing changes.
  void ReportLoss(WorkerId, const absl::Status&) override {}
  void ReportRoundTrip(WorkerId, absl::Duration) override {}
  std::vector<PoolWorkerInfo> Workers() override;

 private:
  struct Worker {
    std::unique_ptr<ExpertStore> store;
    std::unique_ptr<Executor> executor;
    std::shared_ptr<ExpertTransport> transport;
  };
  LocalPool() = default;

  std::shared_ptr<const ModelSource> source_;
  std::string backend_name_;
  std::vector<Worker> workers_;
  std::shared_ptr<const RoutingTable> routes_;
};

}  // namespace moepool
