// How a trunk hands a sequence's updates on.
#pragma once

#include <atomic>
#include <thread>
#include <utility>

#include "common/base/mutex.h"
#include "common/trunk/trunk.h"

namespace moepool {

// Calls back until the last update or Close, and then lets go of the callback and all that it holds.
// Thread-safe.
class UpdateDelivery {
 public:
  explicit UpdateDelivery(UpdateCallback callback) : callback_(std::move(callback)) {}

  // False where it is closed.
  bool Deliver(SequenceUpdate update) NO_THREAD_SAFETY_ANALYSIS {
    UpdateCallback over;  // let go of without the mutex: it may hold the call, which closes this
    MutexLock lock(&mutex_);
    if (closed_) return false;
    closed_ = update.finished;
    thread_ = std::this_thread::get_id();
    callback_(std::move(update));
    thread_ = std::thread::id();
    if (closed_) over = std::move(callback_);
    return true;
  }

  // No update after this: waits for the one under way, unless that is what closes it. False where it was
  // closed already.
  bool Close() NO_THREAD_SAFETY_ANALYSIS {
    // This thread holds the mutex.
    if (thread_.load() == std::this_thread::get_id()) return !std::exchange(closed_, true);
    UpdateCallback over;
    MutexLock lock(&mutex_);
    over = std::move(callback_);
    return !std::exchange(closed_, true);
  }

 private:
  Mutex mutex_;
  std::atomic<std::thread::id> thread_{};  // of the update under way
  bool closed_ GUARDED_BY(mutex_) = false;
  UpdateCallback callback_ GUARDED_BY(mutex_);
};

}  // namespace moepool
