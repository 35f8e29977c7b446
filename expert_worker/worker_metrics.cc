#include "expert_worker/worker_metrics.h"

#include <utility>

namespace moepool {
namespace {

// Counters of the executor only grow, so the difference is what a Prometheus counter lacks.
void Raise(prometheus::Counter& counter, double value) {
  if (value > counter.Value()) counter.Increment(value - counter.Value());
}

}  // namespace

WorkerMetrics::WorkerMetrics(Metrics* metrics, const ExpertStore* store, const Executor* executor,
                             Backend* backend, std::function<bool()> joined)
    : metrics_(metrics),
      store_(store),
      executor_(executor),
      backend_(backend),
      joined_(std::move(joined)),
      thread_([this] { Loop(); }) {}

WorkerMetrics::~WorkerMetrics() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void WorkerMetrics::Update() {
  const ExecutorStats stats = executor_->stats();
  metrics_->Gauge("worker_joined", "1 while the worker is in a router's pool").Set(joined_() ? 1 : 0);
  metrics_->Gauge("worker_experts", "Experts held, over all layers")
      .Set(static_cast<double>(store_->Held().size()));
  metrics_->Gauge("worker_expert_bytes", "Memory of the experts held")
      .Set(static_cast<double>(store_->bytes()));
  metrics_->Gauge("worker_memory_limit_bytes", "Limit on the memory of experts; 0: none")
      .Set(static_cast<double>(store_->memory_limit_bytes()));
  Raise(metrics_->Counter("worker_dispatches_total", "Dispatches computed"),
        static_cast<double>(stats.dispatches));
  Raise(metrics_->Counter("worker_refusals_total", "Dispatches refused"),
        static_cast<double>(stats.refusals));
  Raise(metrics_->Counter("worker_dispatches_too_late_total",
                          "Dispatches refused because their time had run out before they were begun"),
        static_cast<double>(stats.too_late));
  Raise(metrics_->Counter("worker_unreadable_frames_total", "Frames without a readable header"),
        static_cast<double>(stats.unreadable));
  Raise(metrics_->Counter("worker_rows_total", "Rows of dispatches computed"),
        static_cast<double>(stats.rows));
  Raise(metrics_->Counter("worker_busy_seconds_total", "Time spent on dispatches"), stats.busy_seconds);
  const ExpertCacheStats copies = backend_->ExpertCopies();
  Raise(metrics_->Counter("worker_expert_copy_hits_total",
                          "Uses of experts in memory of the host that had a copy on the GPU"),
        static_cast<double>(copies.hits));
  Raise(metrics_->Counter("worker_expert_copies_total", "Experts copied from the host to the GPU"),
        static_cast<double>(copies.copies));
  Raise(metrics_->Counter("worker_expert_host_reads_total",
                          "Uses of experts that were read from memory of the host, as there was no room"),
        static_cast<double>(copies.read_from_host));
  Raise(metrics_->Counter("worker_expert_exchanges_total",
                          "Experts of the host that took the place of a less used one on the GPU"),
        static_cast<double>(copies.exchanges));
}

void WorkerMetrics::Loop() {
  for (;;) {
    Update();
    MutexLock lock(&mutex_);
    if (!stopping_) changed_.WaitFor(&mutex_, std::chrono::seconds(1));
    if (stopping_) return;
  }
}

}  // namespace moepool
