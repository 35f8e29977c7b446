// Waiting for another thread or process of this host whose answer takes microseconds to a few milliseconds:
// within a step, router and workers take turns many times, and a sleep with its wake-up costs each turn about
// 30 us.
#pragma once

#include <chrono>

namespace moepool {

// How long who waits stays awake. Longer than a layer takes anyone in the decode of a large model, so that
// nobody sleeps while a step is under way; short enough that an idle process uses no processor.
inline constexpr std::chrono::milliseconds kStayAwake(2);

// One wait, turn by turn: pauses on this core, then offers of the core to whoever has work for it, which cost
// a fraction of a microsecond where nobody has. Where others keep the core for long, they are no partners of
// this step but strangers; a sleeper that is woken goes before them, one that offers its core does not. So
// for some time afterwards the threads of this process sleep rather than yield.
class AwakeWait {
 public:
  // False where it is time to sleep.
  bool Turn();

 private:
  using Clock = std::chrono::steady_clock;
  int turns_ = 0;
  Clock::time_point begin_;
  Clock::time_point last_;
};

// Returns true as soon as `ready` does, false when the caller is to sleep.
template <typename Ready>
bool WaitAwake(const Ready& ready) {
  AwakeWait wait;
  while (!ready()) {
    if (!wait.Turn()) return ready();
  }
  return true;
}

}  // namespace moepool
