// The real scheduler, meddled with: after every step in which some sequence has got an id, all that run are
// preempted. (After every step at all, a long prompt would never come to its end.)
#pragma once

#include <map>
#include <memory>

#include "router/scheduler.h"

namespace moepool {

class PreemptingScheduler final : public Scheduler {
 public:
  explicit PreemptingScheduler(const SchedulerLimits& limits) : inner_(MakeContinuousBatching(limits)) {}

  StepPlan Plan(const SchedulerSnapshot& snapshot) const override {
    StepPlan plan = inner_->Plan(snapshot);
    for (const SequenceView& s : snapshot.waiting) known_[s.id] = s.known_tokens;
    bool sampled = false;
    for (const SequenceView& s : snapshot.running) sampled = sampled || s.known_tokens > known_[s.id];
    if (!sampled) return plan;
    plan.preempted.clear();
    for (const SequenceView& s : snapshot.running) {
      if (s.deadline > snapshot.now) plan.preempted.push_back(s.id);
    }
    plan.admitted.clear();
    plan.chunks.clear();
    return plan;
  }

 private:
  const std::unique_ptr<Scheduler> inner_;
  mutable std::map<SequenceId, int> known_;  // when it last waited
};

}  // namespace moepool
