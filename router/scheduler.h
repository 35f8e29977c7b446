// Decides what one step computes. Pure: a snapshot in (the clock included), a plan out.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/base/strong_id.h"

namespace moepool {

struct SequenceView {
  SequenceId id;
  int known_tokens = 0;     // prompt and ids sampled so far
  int computed_tokens = 0;  // of those, in the KV cache; 0 while it waits
  int table_blocks = 0;     // length of its block table: it covers table_blocks * block_tokens positions
  int held_blocks = 0;      // of those, the ones that no window has left behind
  int own_blocks = 0;       // of those, the ones that no sequence before it in `running` holds
  absl::Time arrived;
  absl::Time deadline = absl::InfiniteFuture();
};

struct SchedulerLimits {
  int token_budget = 512;  // rows of a step
  int max_running = 64;
  int block_tokens = 16;
  int window_tokens = 0;  // positions that a row sees; 0: all before it
};

// What of a waiting sequence's known tokens is in the KV cache already.
struct CachedTokens {
  int tokens = 0;       // whole blocks, fewer than known_tokens
  int blocks = 0;       // that it would hold for them
  int idle_blocks = 0;  // of these, the ones that free_blocks counts
};

struct SchedulerSnapshot {
  absl::Time now;
  std::span<const SequenceView> running;  // in order of admission
  std::span<const SequenceView> waiting;  // in order of arrival
  int free_blocks = 0;                    // cached blocks that nobody holds among them
  // Looks waiting[i] up in the state that the snapshot shows: asked for the few that may be admitted, because
  // the answer costs time in proportion to the prompt. Null: nothing is cached.
  std::function<CachedTokens(size_t i)> cached;
};

// Rows [begin, begin + count) of a sequence's known tokens. `sample` where the last known token is among
// them.
struct StepChunk {
  SequenceId id;
  int begin = 0;
  int count = 0;
  bool sample = false;
};

// To be followed in this order. Blocks are taken for each chunk, up to begin + count.
struct StepPlan {
  std::vector<SequenceId> expired;  // deadline <= now, running or waiting
  std::vector<SequenceId>
      preempted;  // the last of those running, in order; first of those waiting from now on
  std::vector<SequenceId> admitted;  // the first of those waiting, with what is cached of them
  std::vector<StepChunk> chunks;     // at most one each of running and admitted sequences
};

class Scheduler {
 public:
  virtual ~Scheduler() = default;
  virtual StepPlan Plan(const SchedulerSnapshot& snapshot) const = 0;
};

// Continuous batching with blocks taken as they are needed.
//
// Rows. Every running sequence that decodes (one known token left to compute) gets its row first, in order of
// admission; what is left of the budget goes to prefill in the same order, in chunks. The budget is never
// exceeded. Never more run than there are rows in the budget.
//
// Blocks. In order of admission each gets blocks for its rows. Where too few are free, prefill is cut to
// what there is; a sequence that would get no row at all takes the blocks of the one that was admitted last,
// which is preempted: it waits again, ahead of all others, and computes again what is cached no more. The
// last one itself does without a row.
//
// Admission. Strictly in order of arrival, in steps in which none is preempted, while a place and a row of
// budget are there, and blocks for all that the sequence knows, beside what those running need for all that
// they know and one more block for each: so that what is admitted is not soon preempted again.
//
// Fairness. Those running, followed by those waiting, always stand in order of arrival: admission takes from
// the head of the one list what preemption put there from the tail of the other. So the oldest sequence runs,
// is never preempted, and computes at least one row in every step but those that find blocks with a sequence
// that has expired; it ends, and the next one is the oldest. Nobody starves.
//
// What has expired gets no chunk; its place is free at once, its blocks in the next snapshot. A sequence that
// does not fit into the cache alone would hold up the queue until its deadline: refuse it before. Limits
// below 1 (window_tokens below 0) are a bug of the caller.
std::unique_ptr<Scheduler> MakeContinuousBatching(const SchedulerLimits& limits);

}  // namespace moepool
