// What a sequence's last update says of its way through the engine, and the log where that was a slow one.
#include <algorithm>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/str.h"
#include "common/base/traceparent.h"
#include "router/engine.h"

namespace moepool {

const std::string& Engine::WorkerName(WorkerId worker) {
  const auto known = worker_names_.find(worker);
  if (known != worker_names_.end()) return known->second;
  worker_names_.clear();  // of those who left
  for (const PoolWorkerInfo& info : pool_->Workers()) worker_names_[WorkerId(info.id)] = info.name;
  return worker_names_[worker];
}

void Engine::Account(const Sequence& s, SequenceUpdate* update) {
  AnnotateTimes(s, update);
  update->preemptions = s.preemptions;
  update->retries = s.retries;
  absl::Duration longest;
  if (s.admitted != absl::InfiniteFuture()) {
    WorkerId slowest;
    for (const auto& [worker, total] : dispatcher_->round_trips()) {
      const auto before = s.round_trips_before.find(worker);
      const absl::Duration waited =
          before == s.round_trips_before.end() || before->second > total ? total : total - before->second;
      if (waited <= longest) continue;
      longest = waited;
      slowest = worker;
    }
    if (longest > absl::ZeroDuration()) update->slowest_worker = WorkerName(slowest);
  }
  const absl::Time now = absl::Now();
  const absl::Duration took = now - s.arrived;
  if (took < options_.slow_request) return;
  const absl::Time first_id = s.admitted + absl::Milliseconds(s.prefill_ms);
  Log(LogLevel::kWarning, "slow request",
      {{"request_id", s.request.request_id},
       {"trace_id", std::string(TraceIdOf(s.request.traceparent))},
       {"status", absl::StatusCodeToString(update->status.code())},
       {"prompt_tokens", s.prompt_tokens()},
       {"cached_tokens", s.cached_tokens},
       {"completion_tokens", s.generated()},
       {"queue_ms", update->queue_ms},
       {"prefill_ms", s.prefill_ms},
       {"decode_ms", s.generated() > 0 ? absl::ToDoubleMilliseconds(now - first_id) : 0.0},
       {"total_ms", absl::ToDoubleMilliseconds(took)},
       {"preemptions", s.preemptions},
       {"retries", s.retries},
       {"slowest_worker", update->slowest_worker},
       {"slowest_worker_ms", absl::ToDoubleMilliseconds(longest)}});
}

}  // namespace moepool
