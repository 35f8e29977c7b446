// See thread_pool.h. A job is published as one 64-bit ticket, (generation << 32) | next index. A thread
// claims an index by compare-and-swap on the whole ticket, so one that slept through a job can neither take
// an index of the next nor run with stale fields: its swap fails. Odd generations are closed: the fields
// change under them.
#include "common/base/thread_pool.h"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr std::chrono::microseconds kSpin(10);  // about the price of a sleep and a wake-up

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// Returns true as soon as `ready` does, false when kSpin has passed.
template <typename Ready>
bool SpinUntil(const Ready& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      Pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

}  // namespace

struct ThreadPool::Impl {
  using Body = absl::FunctionRef<void(int64_t)>;

  void Work();
  void RunChunks(uint32_t generation);
  void Publish(int64_t n, const Body* body);

  // Each on a cache line of its own: `ticket` and `done` are written by all.
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int64_t> done{0};
  alignas(64) std::atomic<int64_t> size{0};
  std::atomic<const Body*> body{nullptr};
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};
  std::atomic<bool> stop{false};

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

void ThreadPool::Impl::Work() {
  uint32_t generation = 0;
  const auto moved = [&] {
    return static_cast<uint32_t>(ticket.load() >> 32) != generation || stop.load(std::memory_order_relaxed);
  };
  for (;;) {
    if (!SpinUntil(moved)) {
      MutexLock lock(&mutex);
      sleepers.fetch_add(1);
      while (!moved()) wake.Wait(&mutex);
      sleepers.fetch_sub(1);
    }
    if (stop.load(std::memory_order_relaxed)) return;
    generation = static_cast<uint32_t>(ticket.load(std::memory_order_acquire) >> 32);
    RunChunks(generation);
  }
}

void ThreadPool::Impl::Publish(int64_t n, const Body* run) {
  const uint64_t closed = (ticket.load(std::memory_order_relaxed) >> 32) + 1;
  ticket.store(closed << 32);
  done.store(0, std::memory_order_relaxed);
  body.store(run, std::memory_order_relaxed);
  size.store(n, std::memory_order_release);
  ticket.store((closed + 1) << 32);
  if (sleepers.load() > 0) {
    MutexLock lock(&mutex);
    wake.NotifyAll();
  }
}

ThreadPool::ThreadPool(int threads) : threads_(threads), impl_(std::make_unique<Impl>()) {
  if (threads_ <= 0) threads_ = static_cast<int>(std::thread::hardware_concurrency());
  if (threads_ <= 0) threads_ = 1;
  for (int i = 1; i < threads_; ++i) impl_->workers.emplace_back([this] { impl_->Work(); });
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&impl_->mutex);
    impl_->stop.store(true);
    impl_->wake.NotifyAll();
  }
  for (std::thread& worker : impl_->workers) worker.join();
}

void ThreadPool::ParallelFor(int64_t n, absl::FunctionRef<void(int64_t)> body) {
  if (n <= 0) return;
  if (n == 1 || threads_ == 1) {
    for (int64_t i = 0; i < n; ++i) body(i);
    return;
  }
  MOEPOOL_CHECK(n < (int64_t{1} << 32));
  impl_->Publish(n, &body);
  impl_->RunChunks(static_cast<uint32_t>(impl_->ticket.load(std::memory_order_relaxed) >> 32));
  const auto all_done = [&] { return impl_->done.load() == n; };
  if (SpinUntil(all_done)) return;
  MutexLock lock(&impl_->mutex);
  impl_->caller_sleeps.store(true);
  while (!all_done()) impl_->finished.Wait(&impl_->mutex);
  impl_->caller_sleeps.store(false);
}

}  // namespace moepool
