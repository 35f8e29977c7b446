// Tasks one after another, without a thread of their own.
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "common/base/mutex.h"

namespace moepool {

// Run runs a task in the thread that brings it; while another is under way, it leaves it to that one's
// thread. So none waits for a thread to wake up, and nobody blocks on a task of someone else's. A task may
// bring further ones, which run after it. Thread-safe; outlives Run and RunAdded.
class SerialTasks {
 public:
  using AnyTask = absl::AnyInvocable<void()>;

  template <typename Task>
  void Run(Task task) {
    bool first = false;
    {
      MutexLock lock(&mutex_);
      first = !running_ && waiting_.empty();
      if (!first) waiting_.emplace_back(std::move(task));
      if (std::exchange(running_, true)) return;
    }
    if (first) task();
    RunWaiting();
  }

  // For RunAdded, in whatever thread it is called; of several threads' in the order of Add.
  void Add(AnyTask task) {
    MutexLock lock(&mutex_);
    waiting_.push_back(std::move(task));
  }
  void RunAdded() {
    {
      MutexLock lock(&mutex_);
      if (std::exchange(running_, true)) return;
    }
    RunWaiting();
  }

 private:
  void RunWaiting() {
    while (std::optional<AnyTask> next = Next()) (*next)();
  }

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
