// See scheduler.h.
#include "router/scheduler.h"

#include <algorithm>
#include <cstdint>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

bool Expired(const SequenceView& sequence, absl::Time now) { return sequence.deadline <= now; }

// A running sequence and what the plan gives it.
struct Share {
  const SequenceView* view;
  int rows = 0;

  int uncomputed() const { return view->known_tokens - view->computed_tokens; }
  bool decodes() const { return uncomputed() == 1; }
};

class ContinuousBatching final : public Scheduler {
 public:
  explicit ContinuousBatching(const SchedulerLimits& limits)
      : limits_(limits), max_running_(std::min(limits.max_running, limits.token_budget)) {
    MOEPOOL_CHECK(limits.token_budget > 0 && limits.max_running > 0 && limits.block_tokens > 0 &&
                  limits.window_tokens >= 0);
  }

  StepPlan Plan(const SchedulerSnapshot& snapshot) const override {
    StepPlan plan;
    std::vector<Share> running;
    for (const SequenceView& sequence : snapshot.running) {
      if (Expired(sequence, snapshot.now)) {
        plan.expired.push_back(sequence.id);
      } else {
        running.push_back({&sequence});
      }
    }
    int budget = limits_.token_budget;
    ShareRows(running, &budget);
    int64_t free_blocks = snapshot.free_blocks;
    ShareBlocks(&running, &free_blocks, &plan);
    for (const bool decodes : {true, false}) {
      for (const Share& share : running) {
        if (share.decodes() == decodes) AddChunk(*share.view, share.view->computed_tokens, share.rows, &plan);
      }
    }
    Admit(snapshot, running, budget, free_blocks, &plan);
    return plan;
  }

 private:
  int64_t Blocks(int64_t tokens) const { return (tokens + limits_.block_tokens - 1) / limits_.block_tokens; }

  // The most blocks that a sequence of `known_tokens` holds at once while they are computed.
  int64_t MostBlocks(int known_tokens) const {
    const int64_t all = Blocks(known_tokens);
    if (limits_.window_tokens == 0) return all;
    return std::min(all, Blocks(int64_t{limits_.window_tokens} + limits_.token_budget) + 1);
  }

  static void ShareRows(std::span<Share> running, int* budget) {
    for (const bool decodes : {true, false}) {
      for (Share& share : running) {
        if (share.decodes() != decodes) continue;
        share.rows = std::clamp(share.uncomputed(), 0, *budget);
        *budget -= share.rows;
      }
    }
  }

  // Rows from `computed` on that a table of `table_blocks` and `free_blocks` more have room for.
  int64_t RowsThatFit(int64_t table_blocks, int computed, int64_t free_blocks) const {
    return (table_blocks + free_blocks) * limits_.block_tokens - computed;
  }

  void ShareBlocks(std::vector<Share>* running, int64_t* free_blocks, StepPlan* plan) const {
    for (size_t i = 0; i < running->size(); ++i) {
      Share& share = (*running)[i];
      const SequenceView& view = *share.view;
      if (share.rows == 0) continue;
      const auto fit = [&] { return RowsThatFit(view.table_blocks, view.computed_tokens, *free_blocks); };
      while (fit() < 1 && i + 1 < running->size()) {
        *free_blocks += running->back().view->own_blocks;
        plan->preempted.push_back(running->back().view->id);
        running->pop_back();
      }
      share.rows = static_cast<int>(std::clamp<int64_t>(fit(), 0, share.rows));
      *free_blocks -= NewBlocks(view.table_blocks, view.computed_tokens + share.rows);
    }
    std::reverse(plan->preempted.begin(), plan->preempted.end());
  }

  int64_t NewBlocks(int64_t table_blocks, int tokens) const {
    return std::max<int64_t>(0, Blocks(tokens) - table_blocks);
  }

  // `free_blocks`: what is left for those admitted, once the running sequences have their chunks.
  void Admit(const SchedulerSnapshot& snapshot, std::span<const Share> running, int budget,
             int64_t free_blocks, StepPlan* plan) const {
    int places_taken = static_cast<int>(running.size());
    // Blocks that are as good as taken: what those running need for all that they know.
    int64_t promised = 0;
    for (const Share& share : running) {
      const int64_t holds = share.view->held_blocks +
                            NewBlocks(share.view->table_blocks, share.view->computed_tokens + share.rows);
      promised += std::max<int64_t>(0, MostBlocks(share.view->known_tokens) - holds);
    }
    bool admitting = plan->preempted.empty();
    for (size_t i = 0; i < snapshot.waiting.size(); ++i) {
      const SequenceView& view = snapshot.waiting[i];
      if (Expired(view, snapshot.now)) {
        plan->expired.push_back(view.id);
        continue;
      }
      admitting = admitting && places_taken < max_running_ && budget > 0;
      if (!admitting) continue;  // those behind it may have expired
      const CachedTokens cached = snapshot.cached ? snapshot.cached(i) : CachedTokens{};
      const int64_t left = free_blocks - cached.idle_blocks;
      const int64_t most = std::max<int64_t>(0, MostBlocks(view.known_tokens) - cached.blocks);
      const int64_t table_blocks = cached.tokens / limits_.block_tokens;
      const int64_t rows = std::min<int64_t>({RowsThatFit(table_blocks, cached.tokens, left), budget,
                                              int64_t{view.known_tokens} - cached.tokens});
      // Alone it takes what there is: the rest belongs to sequences that have expired.
      admitting = rows > 0 && (places_taken == 0 || most + promised + places_taken + 1 <= left);
      if (!admitting) continue;
      plan->admitted.push_back(view.id);
      AddChunk(view, cached.tokens, static_cast<int>(rows), plan);
      const int64_t taken = NewBlocks(table_blocks, cached.tokens + static_cast<int>(rows));
      budget -= static_cast<int>(rows);
      free_blocks = left - taken;
      promised += std::max<int64_t>(0, most - taken);
      ++places_taken;
    }
  }

  static void AddChunk(const SequenceView& view, int begin, int count, StepPlan* plan) {
    if (count == 0) return;
    plan->chunks.push_back(
        {.id = view.id, .begin = begin, .count = count, .sample = begin + count == view.known_tokens});
  }

  SchedulerLimits limits_;
  int max_running_;
};

}  // namespace

std::unique_ptr<Scheduler> MakeContinuousBatching(const SchedulerLimits& limits) {
  return std::make_unique<ContinuousBatching>(limits);
}

}  // namespace moepool
