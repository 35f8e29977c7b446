// See scheduler.h.
#include "router/scheduler.h"

#include <algorithm>
#include <cstdint>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

bool Expired(const SequenceView& sequence, absl::Time now) { return sequence.deadline <= now; }

int Uncomputed(const SequenceView& sequence) { return sequence.known_tokens - sequence.computed_tokens; }

class ContinuousBatching final : public Scheduler {
 public:
  explicit ContinuousBatching(const SchedulerLimits& limits)
      : limits_(limits), max_running_(std::min(limits.max_running, limits.token_budget)) {
    MOEPOOL_CHECK(limits.token_budget > 0 && limits.max_running > 0 && limits.block_tokens > 0);
  }

  StepPlan Plan(const SchedulerSnapshot& snapshot) const override {
    StepPlan plan;
    int budget = limits_.token_budget;
    int running = 0;
    for (const SequenceView& sequence : snapshot.running) {
      if (Expired(sequence, snapshot.now)) {
        plan.expired.push_back(sequence.id);
        continue;
      }
      ++running;
      if (Uncomputed(sequence) == 1) AddChunk(sequence, &budget, &plan);
    }
    for (const SequenceView& sequence : snapshot.running) {
      if (Uncomputed(sequence) > 1 && !Expired(sequence, snapshot.now)) AddChunk(sequence, &budget, &plan);
    }
    int64_t free_blocks = snapshot.free_blocks;
    bool admitting = true;
    for (const SequenceView& sequence : snapshot.waiting) {
      if (Expired(sequence, snapshot.now)) {
        plan.expired.push_back(sequence.id);
        continue;
      }
      const int64_t blocks = Blocks(sequence.reserve_tokens);
      admitting = admitting && running < max_running_ && budget > 0 && blocks <= free_blocks;
      if (!admitting) continue;  // those behind it may have expired
      ++running;
      free_blocks -= blocks;
      plan.admitted.push_back(sequence.id);
      AddChunk(sequence, &budget, &plan);
    }
    return plan;
  }

 private:
  int64_t Blocks(int64_t tokens) const { return (tokens + limits_.block_tokens - 1) / limits_.block_tokens; }

  static void AddChunk(const SequenceView& sequence, int* budget, StepPlan* plan) {
    const int count = std::min(*budget, Uncomputed(sequence));
    if (count <= 0) return;
    *budget -= count;
    plan->chunks.push_back({.id = sequence.id,
                            .begin = sequence.computed_tokens,
                            .count = count,
                            .sample = count == Uncomputed(sequence)});
  }

  SchedulerLimits limits_;
  int max_running_;
};

}  // namespace

std::unique_ptr<Scheduler> MakeContinuousBatching(const SchedulerLimits& limits) {
  return std::make_unique<ContinuousBatching>(limits);
}

}  // namespace moepool
