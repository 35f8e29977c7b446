// See parallel_status.h.
#include "common/base/parallel_status.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/processors.h"

namespace moepool {

absl::Status ParallelStatus(int64_t n, int threads, absl::FunctionRef<absl::Status(int64_t)> body) {
  if (threads <= 0) threads = ProcessorCount();
  std::atomic<int64_t> next = 0;
  std::atomic<bool> failed = false;
  Mutex mutex;
  int64_t first_failed = n;
  absl::Status status;
  const auto work = [&] {
    for (;;) {
      // Taken in ascending order, so that all before the smallest that fails have been begun.
      const int64_t i = failed.load() ? n : next.fetch_add(1);
      if (i >= n) return;
      absl::Status one = body(i);
      if (one.ok()) continue;
      failed.store(true);
      MutexLock lock(&mutex);
      if (i < first_failed) {
        first_failed = i;
        status = std::move(one);
      }
    }
  };
  std::vector<std::thread> others;
  for (int64_t t = 1; t < std::min<int64_t>(threads, n); ++t) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return status;
}

}  // namespace moepool
