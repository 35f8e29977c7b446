#include "common/base/awake_wait.h"

#include <sched.h>

#include <atomic>
#include <cstdint>

namespace moepool {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kPauseTurns = 16;  // of kPausesATurn each, about a microsecond in all
constexpr int kPausesATurn = 4;
// Another thread of the process has its chunk done sooner, a stranger's time slice is longer.
constexpr std::chrono::microseconds kLongYield(1500);
constexpr std::chrono::milliseconds kDistrust(100);  // one slice of a stranger in this time costs 3 %

// No yields before this time of the steady clock.
std::atomic<int64_t> g_sleep_until_ns = 0;
std::atomic<int> g_partners = 0;

int64_t Nanoseconds(Clock::time_point time) {
  return std::chrono::nanoseconds(time.time_since_epoch()).count();
}

void SleepUntil(Clock::time_point time) {
  g_sleep_until_ns.store(Nanoseconds(time), std::memory_order_relaxed);
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
  if (now - last_ > kLongYield && g_partners.load(std::memory_order_relaxed) == 0)
    SleepUntil(now + kDistrust);
  last_ = now;
  return now - begin_ < kStayAwake;
}

void SleepAtOnceFor(std::chrono::milliseconds time) { SleepUntil(Clock::now() + time); }

HasPartners::HasPartners() { g_partners.fetch_add(1, std::memory_order_relaxed); }
HasPartners::~HasPartners() { g_partners.fetch_sub(1, std::memory_order_relaxed); }

}  // namespace moepool
