// The calls that one HTTP request became: cancelled together.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "gateway/inference.h"

namespace moepool {

// Thread-safe. Holds no call: a callback of theirs may hold the group.
class CallGroup {
 public:
  // Cancelled at once where the group has been.
  void Add(const std::shared_ptr<InferCall>& call) {
    MutexLock lock(&mutex_);
    if (cancelled_) return call->Cancel();
    calls_.push_back(call);
  }
  void Cancel() {
    MutexLock lock(&mutex_);
    if (std::exchange(cancelled_, true)) return;
    for (const std::weak_ptr<InferCall>& weak : calls_) {
      if (const auto call = weak.lock()) call->Cancel();
    }
  }

 private:
  Mutex mutex_;
  bool cancelled_ GUARDED_BY(mutex_) = false;
  std::vector<std::weak_ptr<InferCall>> calls_ GUARDED_BY(mutex_);
};

}  // namespace moepool
