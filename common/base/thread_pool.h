// A fixed set of threads that share out the chunks of one loop at a time. Work is taken in small chunks
// from a counter, so a thread that loses its core delays the loop by one chunk; who waits stays awake
// for a while but leaves its core to others (awake_wait.h), because router and workers take turns on the same
// cores.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace moepool {

class ThreadPool {
 public:
  // `threads` counts the caller: 1 starts none. 0 means one for each processor that this process may run on.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Calls body(i) once for each i in [0, n), from any of the threads, and returns when all have returned.
  // Which thread runs which i must not matter to the result. One caller at a time; not from inside a body.
  void ParallelFor(int64_t n, absl::FunctionRef<void(int64_t)> body) { ParallelFor(n, threads_, body); }
  // The same on `threads` of the pool's at most, at least the caller's.
  void ParallelFor(int64_t n, int threads, absl::FunctionRef<void(int64_t)> body);

  // From the next loop on, has the threads keep to part `slot` of `slots` of the machine's processors, and
  // moves the calling one there if it is elsewhere.  Part 0 of 1 is all of them, and so is every part where
  // the process may run on some only.  Returns how many threads the part can use, at least 1.
  int UsePart(int slot, int slots);

  int threads() const { return threads_; }

 private:
  struct Impl;
  int threads_;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moepool
