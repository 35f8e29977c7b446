// Decides what one step computes. Pure: a snapshot in (the clock included), a plan out.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/base/strong_id.h"

namespace moepool {

struct SequenceView {
  SequenceId id;
  int known_tokens = 0;     // prompt and ids sampled so far
  int computed_tokens = 0;  // of those, in the KV cache
  int reserve_tokens = 0;   // most it can ever hold: prompt + max_tokens
  absl::Time arrived;
  absl::Time deadline = absl::InfiniteFuture();
};

struct SchedulerLimits {
  int token_budget = 512;  // rows of a step
  int max_running = 64;
  int block_tokens = 16;
};

struct SchedulerSnapshot {
  absl::Time now;
  std::span<const SequenceView> running;  // in order of admission
  std::span<const SequenceView> waiting;  // in order of arrival
  int free_blocks = 0;
};

// Rows [begin, begin + count) of a sequence's known tokens. `sample` where the last known token is among
// them.
struct StepChunk {
  SequenceId id;
  int begin = 0;
  int count = 0;
  bool sample = false;
};

struct StepPlan {
  std::vector<SequenceId> expired;   // deadline <= now, running or waiting
  std::vector<SequenceId> admitted;  // waiting no more; blocks for reserve_tokens are to be taken
  std::vector<StepChunk> chunks;     // at most one each of running and admitted sequences
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  virtual StepPlan Plan(const SchedulerSnapshot& snapshot) const = 0;
};

// Continuous batching. Every running sequence that decodes (one known token left to compute) gets its row
// first, in order of admission; what is left of the budget goes to prefill in the same order, in chunks;
// waiting sequences are admitted strictly in order of arrival while a place, a row of budget and blocks for
// the whole of reserve_tokens are there. The budget is never exceeded; a waiting sequence is never overtaken.
//
// Never more run than there are rows in the budget, so that each decoding sequence advances in every step and
// the first one in prefill too. What has expired gets no chunk; its place is free at once, its blocks in the
// next snapshot. A sequence whose reserve exceeds all blocks of the cache would hold up the queue until its
// deadline: refuse it before. Limits below 1 are a bug of the caller.
std::unique_ptr<Scheduler> MakeContinuousBatching(const SchedulerLimits& limits);

}  // namespace moepool
