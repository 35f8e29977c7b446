// See request_queue.h.
#include "router/request_queue.h"

#include <algorithm>
#include <utility>

#include "common/base/str.h"

namespace moepool {

absl::Status RequestQueue::Push(std::unique_ptr<Sequence> sequence) {
  MutexLock lock(&mutex_);
  if (batch_.closed || refusing_) return absl::UnavailableError("the router is shutting down");
  const int waiting = engine_waiting_ + static_cast<int>(batch_.arrived.size());
  if (waiting >= max_waiting_) {
    return absl::ResourceExhaustedError(
        StrCat("the queue is full: ", waiting, " of ", max_waiting_, " wait"));
  }
  batch_.arrived.push_back(std::move(sequence));
  changed_.NotifyOne();
  return absl::OkStatus();
}

void RequestQueue::Cancel(SequenceId id) {
  MutexLock lock(&mutex_);
  batch_.cancelled.push_back(id);
  any_cancelled_.store(true, std::memory_order_relaxed);
  changed_.NotifyOne();
}

bool RequestQueue::Cancelled(SequenceId id) {
  if (!any_cancelled_.load(std::memory_order_relaxed)) return false;
  MutexLock lock(&mutex_);
  return std::find(batch_.cancelled.begin(), batch_.cancelled.end(), id) != batch_.cancelled.end();
}

void RequestQueue::Refuse() {
  MutexLock lock(&mutex_);
  refusing_ = true;
}

void RequestQueue::Close() {
  MutexLock lock(&mutex_);
  batch_.closed = true;
  changed_.NotifyOne();
}

void RequestQueue::SetEngineWaiting(int engine_waiting) {
  MutexLock lock(&mutex_);
  engine_waiting_ = engine_waiting;
}

RequestQueue::Batch RequestQueue::Take(absl::Duration patience, int engine_waiting) {
  MutexLock lock(&mutex_);
  engine_waiting_ = engine_waiting;
  const absl::Time until = absl::Now() + patience;
  while (batch_.arrived.empty() && batch_.cancelled.empty() && !batch_.closed) {
    const absl::Duration left = until - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    if (left == absl::InfiniteDuration()) {
      changed_.Wait(&mutex_);
    } else {
      changed_.WaitFor(&mutex_, absl::ToChronoNanoseconds(left));
    }
  }
  Batch taken = std::exchange(batch_, {});
  any_cancelled_.store(false, std::memory_order_relaxed);
  batch_.closed = taken.closed;
  engine_waiting_ += static_cast<int>(taken.arrived.size());
  return taken;
}

}  // namespace moepool
