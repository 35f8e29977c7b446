// See thread_pool.h. A job is published as one 64-bit ticket, (generation << 32) | next index. A thread
// claims an index by compare-and-swap on the whole ticket, so one that slept through a job can neither take
// an index of the next nor run with stale fields: its swap fails. Odd generations are closed: the fields
// change under them.
#include "common/base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <iterator>
#include <span>
#include <thread>
#include <vector>

#include "common/base/awake_wait.h"
#include "common/base/mutex.h"
#include "common/base/processors.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

// The processor that the calling thread runs on; -1 where the system does not say.
int CurrentCpu() { return sched_getcpu(); }

// Moves the calling thread to one of `cpus` that it may run on, and leaves it free to be moved again.
void MoveTo(std::span<const int> cpus) {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return;
  cpu_set_t wanted;
  CPU_ZERO(&wanted);
  for (const int cpu : cpus) CPU_SET(cpu, &wanted);
  CPU_AND(&wanted, &wanted, &allowed);  // which may have been narrowed since the pool was made
  if (CPU_COUNT(&wanted) == 0) return;
  sched_setaffinity(0, sizeof(wanted), &wanted);  // moves at once
  sched_setaffinity(0, sizeof(allowed), &allowed);
}

}  // namespace

struct ThreadPool::Impl {
  using Body = absl::FunctionRef<void(int64_t)>;

  void Work(int thread);
  // Two threads of the pool on one processor would take turns there while, to the scheduler, those who wait
  // awake (awake_wait.h) keep the others as busy. A thread that meets an earlier one of the pool moves, and
  // so does one outside the pool's part.
  void SpreadOut(int thread);
  std::span<const int> Part() const {
    const uint64_t packed = part.load(std::memory_order_relaxed);
    return std::span(allowed).subspan(packed >> 32, static_cast<uint32_t>(packed));
  }
  void SetPart(uint64_t begin, uint64_t size) { part.store(begin << 32 | size, std::memory_order_relaxed); }
  void RunChunks(uint32_t generation);
  void Publish(int64_t n, int threads, const Body* body);

  // Each on a cache line of its own: `ticket` and `done` are written by all.
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<int64_t> size{0};
  std::atomic<const Body*> body{nullptr};
  std::atomic<int> limit{0};  // threads numbered from here on leave the job to the others
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};

  const std::vector<int> allowed = AllowedProcessors();
  const bool whole_machine = AllProcessorsAllowed();
  std::atomic<uint64_t> part{allowed.size()};  // of `allowed`: where it begins << 32 | its size
  std::vector<std::atomic<int>> cpus;          // [threads] where each last took up a job

  Mutex mutex;
  CondVar wake;      // a new ticket, or stop
  CondVar finished;  // done == size
  std::vector<std::thread> workers;
};

void ThreadPool::Impl::RunChunks(uint32_t generation) {
  for (;;) {
    uint64_t seen = ticket.load(std::memory_order_acquire);
    if (static_cast<uint32_t>(seen >> 32) != generation || generation % 2 == 1) return;
    const int64_t n =
        size.load(std::memory_order_acquire);  // a later job's size shows that this one is closed
    const Body* const run = body.load(std::memory_order_relaxed);
    const int64_t index = static_cast<int64_t>(seen & 0xffffffffu);
    if (index >= n) return;
    if (!ticket.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) continue;
    (*run)(index);
    // Sequentially consistent, with caller_sleeps: one of the two sides sees the other.
    if (done.fetch_add(1) + 1 == n && caller_sleeps.load()) {
      MutexLock lock(&mutex);
      finished.NotifyAll();
    }
  }
}

void ThreadPool::Impl::SpreadOut(int thread) {
  const int cpu = CurrentCpu();
  const auto taken = [&](int other) {
    for (int i = 0; i < thread; ++i) {
      if (cpus[i].load(std::memory_order_relaxed) == other) return true;
    }
    return false;
  };
  const std::span<const int> part = Part();
  if (cpu >= 0 && (taken(cpu) || std::find(part.begin(), part.end(), cpu) == part.end())) {
    std::vector<int> others;
    std::copy_if(part.begin(), part.end(), std::back_inserter(others),
                 [&](int other) { return !taken(other); });
    MoveTo(others);
  }
  cpus[thread].store(CurrentCpu(), std::memory_order_relaxed);
}

void ThreadPool::Impl::Work(int thread) {
  uint32_t generation = 0;
  const auto moved = [&] {
    return static_cast<uint32_t>(ticket.load() >> 32) != generation || stop.load(std::memory_order_relaxed);
  };
  for (;;) {
    if (!WaitAwake(moved)) {
      MutexLock lock(&mutex);
      sleepers.fetch_add(1);
      while (!moved()) wake.Wait(&mutex);
      sleepers.fetch_sub(1);
    }
    if (stop.load(std::memory_order_relaxed)) return;
    generation = static_cast<uint32_t>(ticket.load(std::memory_order_acquire) >> 32);
    // Where this is already a later job's limit, RunChunks finds its generation gone, and the next turn takes
    // up that job.
    if (thread >= limit.load(std::memory_order_relaxed)) continue;
    SpreadOut(thread);
    RunChunks(generation);
  }
}

void ThreadPool::Impl::Publish(int64_t n, int threads, const Body* run) {
  cpus[0].store(CurrentCpu(), std::memory_order_relaxed);
  const uint64_t closed = (ticket.load(std::memory_order_relaxed) >> 32) + 1;
  ticket.store(closed << 32);
  done.store(0, std::memory_order_relaxed);
  body.store(run, std::memory_order_relaxed);
  limit.store(threads, std::memory_order_relaxed);
  size.store(n, std::memory_order_release);
  ticket.store((closed + 1) << 32);
  if (sleepers.load() > 0) {
    MutexLock lock(&mutex);
    wake.NotifyAll();
  }
}

ThreadPool::ThreadPool(int threads) : threads_(threads), impl_(std::make_unique<Impl>()) {
  if (threads_ <= 0) threads_ = ProcessorCount();
  impl_->cpus = std::vector<std::atomic<int>>(threads_);
  for (std::atomic<int>& cpu : impl_->cpus) cpu.store(-1, std::memory_order_relaxed);
  for (int i = 1; i < threads_; ++i) impl_->workers.emplace_back([this, i] { impl_->Work(i); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&impl_->mutex);
    impl_->stop.store(true);
    impl_->wake.NotifyAll();
  }
  for (std::thread& worker : impl_->workers) worker.join();
}

int ThreadPool::UsePart(int slot, int slots) {
  const size_t all = impl_->allowed.size();
  // Who has been given processors of its own has its part already; and the system may not have said.
  if (all == 0 || !impl_->whole_machine) return threads_;
  const auto at = [&](int part) { return static_cast<size_t>(part) * all / static_cast<size_t>(slots); };
  // Where there are more parts than processors, several share one.
  const size_t size = std::max(at(slot + 1), at(slot) + 1) - at(slot);
  impl_->SetPart(at(slot), size);
  const std::span<const int> part = impl_->Part();
  if (std::find(part.begin(), part.end(), CurrentCpu()) == part.end()) MoveTo(part);
  return std::min(threads_, static_cast<int>(size));
}

void ThreadPool::ParallelFor(int64_t n, int threads, absl::FunctionRef<void(int64_t)> body) {
  if (n <= 0) return;
  if (n == 1 || threads_ == 1 || threads <= 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  MOEPOOL_CHECK(n < (int64_t{1} << 32));
  impl_->Publish(n, threads, &body);
  impl_->RunChunks(static_cast<uint32_t>(impl_->ticket.load(std::memory_order_relaxed) >> 32));
  const auto all_done = [&] { return impl_->done.load() == n; };
  if (WaitAwake(all_done)) return;
  MutexLock lock(&impl_->mutex);
  impl_->caller_sleeps.store(true);
  while (!all_done()) impl_->finished.Wait(&impl_->mutex);
  impl_->caller_sleeps.store(false);
}

}  // namespace moepool
