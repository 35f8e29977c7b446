// Waiting for another thread or process of this host whose answer takes microseconds to a few milliseconds:
// within a step, router and workers take turns many times, and a sleep with its wake-up costs each turn about
// 30 us.
#pragma once

#include <chrono>

namespace moepool {

// How long who waits stays awake. Longer than a layer takes anyone in the decode of a large model, so that
// nobody sleeps while a step is under way; short enough that an idle process uses no processor.
inline constexpr std::chrono::milliseconds kStayAwake(2);

// A moment on this core, then the core is offered to others. `turn` counts the calls of one wait.
void PauseOrYield(int turn);

// Returns true as soon as `ready` does, false when kStayAwake has passed: the caller then sleeps. Yielding
// leaves the core to whoever has work for it, and costs a fraction of a microsecond where nobody has.
template <typename Ready>
bool WaitAwake(const Ready& ready) {
  constexpr int kTurnsAClock = 8;  // turns between looks at the clock
  if (ready()) return true;
  const auto end = std::chrono::steady_clock::now() + kStayAwake;
  for (int turn = 0;; ++turn) {
    PauseOrYield(turn);
    if (ready()) return true;
    if (turn % kTurnsAClock == kTurnsAClock - 1 && std::chrono::steady_clock::now() >= end) return false;
  }
}

}  // namespace moepool
