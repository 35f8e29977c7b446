// std::mutex with clang's thread-safety annotations. The core uses this rather than absl::Mutex because
// ThreadSanitizer reports false races through Debian's uninstrumented abseil.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"

#if defined(__clang__)
#define MOEPOOL_TSA(x) __attribute__((x))
#else
#define MOEPOOL_TSA(x)
#endif
// GUARDED_BY and NO_THREAD_SAFETY_ANALYSIS are abseil's; the rest are the names of clang's documentation.
#define REQUIRES(...) MOEPOOL_TSA(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) MOEPOOL_TSA(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) MOEPOOL_TSA(acquire_capability(__VA_ARGS__))
#define RELEASE(...) MOEPOOL_TSA(release_capability(__VA_ARGS__))

namespace moepool {

class MOEPOOL_TSA(capability("mutex")) Mutex {
 public:
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class MOEPOOL_TSA(scoped_lockable) MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() RELEASE() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

// Callers hold `mutex` and test their condition in a loop: wake-ups may be spurious.
class CondVar {
 public:
  void Wait(Mutex* mutex) REQUIRES(mutex) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // False when `duration` passed first.
  bool WaitFor(Mutex* mutex, std::chrono::nanoseconds duration) REQUIRES(mutex) NO_THREAD_SAFETY_ANALYSIS {
    std::unique_lock<std::mutex> lock(mutex->mutex_, std::adopt_lock);
    const bool signalled = cv_.wait_for(lock, duration) == std::cv_status::no_timeout;
    lock.release();
    return signalled;
  }
  void NotifyOne() { cv_.notify_one(); }
  void NotifyAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

}  // namespace moepool
