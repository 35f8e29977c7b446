// A worker's numbers in Prometheus form, brought up to date once a second.
#pragma once

#include <functional>
#include <thread>

#include "common/base/mutex.h"
#include "common/metrics/metrics.h"
#include "expert_worker/executor.h"
#include "expert_worker/expert_store.h"

namespace moepool {

class WorkerMetrics {
 public:
  // All outlive this. `joined` says whether the worker is in a pool.
  WorkerMetrics(Metrics* metrics, const ExpertStore* store, const Executor* executor, Backend* backend,
                std::function<bool()> joined);
  ~WorkerMetrics();
  WorkerMetrics(const WorkerMetrics&) = delete;
  WorkerMetrics& operator=(const WorkerMetrics&) = delete;

 private:
  void Update();
  void Loop();

  Metrics* const metrics_;
  const ExpertStore* const store_;
  const Executor* const executor_;
  Backend* const backend_;
  const std::function<bool()> joined_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace moepool
