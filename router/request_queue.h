// What callers have asked of the engine since it last looked: new sequences and cancellations. The only state
// that callers and the engine's thread share.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "router/sequence.h"

namespace moepool {

class RequestQueue {
 public:
  struct Batch {
    std::vector<std::unique_ptr<Sequence>> arrived;  // in order of arrival
    std::vector<SequenceId> cancelled;
    bool closed = false;
  };

  // `max_waiting`: sequences that are here or with the engine and not yet admitted.
  explicit RequestQueue(int max_waiting) : max_waiting_(max_waiting) {}

  // ResourceExhausted with both numbers; Unavailable after Refuse() or Close().
  absl::Status Push(std::unique_ptr<Sequence> sequence);
  void Cancel(SequenceId id);
  // Whether Take would say so. Costs next to nothing while nobody has cancelled anything.
  bool Cancelled(SequenceId id);
  void Refuse();  // nothing more is taken in
  void Close();   // and what is here is the last batch

  // Waits until there is something, or for `patience`. `engine_waiting`: sequences that the engine holds and
  // has not admitted, for the bound of Push.
  Batch Take(absl::Duration patience, int engine_waiting);
  // Between two Takes: the engine has admitted some, so that their places are free while a step runs, or
  // preempted some.
  void SetEngineWaiting(int engine_waiting);

 private:
  const int max_waiting_;
  Mutex mutex_;
  CondVar changed_;
  Batch batch_ GUARDED_BY(mutex_);
  int engine_waiting_ GUARDED_BY(mutex_) = 0;
  bool refusing_ GUARDED_BY(mutex_) = false;
  std::atomic<bool> any_cancelled_ = false;  // in batch_
};

}  // namespace moepool
