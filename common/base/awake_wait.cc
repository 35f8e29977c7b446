#include "common/base/awake_wait.h"

#include <sched.h>

#include <atomic>
#include <cstdint>

namespace moepool {
namespace {

constexpr int kPauseTurns = 16;  // of kPausesATurn each, about a microsecond in all
constexpr int kPausesATurn = 4;
// A partner's share of a layer in decode is shorter, a stranger's time slice is longer.
constexpr std::chrono::microseconds kLongYield(1500);
constexpr std::chrono::milliseconds kDistrust(100);  // one slice of a stranger in this time costs 3 %

// No yields before this time of the steady clock.
std::atomic<int64_t> g_sleep_until_ns = 0;

int64_t Nanoseconds(std::chrono::steady_clock::time_point time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

}  // namespace

bool AwakeWait::Turn() {
  if (turns_ < kPauseTurns) {
    ++turns_;
    for (int i = 0; i < kPausesATurn; ++i) {
#if defined(__x86_64__) || defined(__i386__)
      __builtin_ia32_pause();
#endif
    }
    return true;
  }
  if (turns_ == kPauseTurns) {
    ++turns_;
    begin_ = last_ = Clock::now();
  }
  if (Nanoseconds(last_) < g_sleep_until_ns.load(std::memory_order_relaxed)) return false;
  sched_yield();
  const Clock::time_point now = Clock::now();
  if (now - last_ > kLongYield) {
    g_sleep_until_ns.store(Nanoseconds(now + kDistrust), std::memory_order_relaxed);
  }
  last_ = now;
  return now - begin_ < kStayAwake;
}

}  // namespace moepool
