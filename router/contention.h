// Whether waiting awake (common/base/awake_wait.h) gets in the way on this host. Router and workers offer
// their cores to one another while they wait. That fails where each has a scheduling group of its own
// (containers, units, sessions), as an offer then reaches nobody, and where programs of others take the
// offers. Either way an exchange takes far longer than its workers compute, which the router sees, and all
// processes then sleep where they wait, for a time that doubles while trying again shows the same.
#pragma once

#include "absl/time/time.h"

namespace moepool {

class HostContention {
 public:
  // An exchange with workers of this host alone has ended at `now`: `exchange` from its first send to its
  // last part, of which the worker that computed longest says `compute`.
  void Add(absl::Duration exchange, absl::Duration compute, absl::Time now);

  // Whether those who wait are to sleep at `now`.
  bool Asleep(absl::Time now) const { return now < asleep_until_; }

 private:
  absl::Time asleep_until_ = absl::InfinitePast();
  absl::Duration asleep_for_;  // last time; zero after a window without contention
  // Of the window:
  int count_ = 0;
  int slow_ = 0;
  absl::Duration time_;
};

}  // namespace moepool
