// Waiting for another thread or process of this host whose answer takes microseconds to a few milliseconds:
// within a step, router and workers take turns many times, and a sleep with its wake-up costs each turn about
// 30 us.
#pragma once

#include <chrono>

namespace moepool {

// How long who waits stays awake. Longer than a layer takes anyone in the decode of 32 sequences of a large
// model, so that nobody sleeps while a step is under way; short enough that an idle process uses no
// processor.
inline constexpr std::chrono::milliseconds kStayAwake(8);

// One wait, turn by turn: pauses on this core, then offers of the core to whoever has work for it, which cost
// a fraction of a microsecond where nobody has. Offers reach threads of the same scheduling group (session,
// container, unit) alone, and strangers take them too, so there is a time to sleep instead:
//   - where the process has no partners (below), once an offer has been taken for long: by strangers;
//   - where it has, when the router finds that turns take long (router/contention.h): partners keep a core
//     for as long as they compute, and that is no loss.
// A sleeper that is woken goes before those who have had their time, one that offers its core does not.
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

// Has the threads of this process sleep at once where they would wait awake, from now until `time` has
// passed.
void SleepAtOnceFor(std::chrono::milliseconds time);

// For as long as one lives, other processes of this host compute for this one, or this one for them.
class HasPartners {
 public:
  HasPartners();
  ~HasPartners();
  HasPartners(const HasPartners&) = delete;
  HasPartners& operator=(const HasPartners&) = delete;
};

}  // namespace moepool
