// Tasks one after another, without a thread of their own.
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "common/base/mutex.h"

namespace moepool {

// Runs each task in the thread that brings it; while another is under way, leaves it to that one's thread. So
// none waits for a thread to wake up, and Run never blocks on a task of someone else's. A task may bring
// further ones, which run after it. Thread-safe; outlives Run.
class SerialTasks {
 public:
  template <typename Task>
  void Run(Task task) {
    {
      MutexLock lock(&mutex_);
      if (running_) {
        waiting_.emplace_back(std::move(task));
        return;
      }
      running_ = true;
    }
    task();
    while (std::optional<AnyTask> next = Next()) (*next)();
  }

 private:
  using AnyTask = absl::AnyInvocable<void()>;

  std::optional<AnyTask> Next() {
    MutexLock lock(&mutex_);
    if (waiting_.empty()) {
      running_ = false;
      return std::nullopt;
    }
    std::optional<AnyTask> next(std::move(waiting_.front()));
    waiting_.pop_front();
    return next;
  }

  Mutex mutex_;
  bool running_ GUARDED_BY(mutex_) = false;
  std::deque<AnyTask> waiting_ GUARDED_BY(mutex_);
};

}  // namespace moepool
