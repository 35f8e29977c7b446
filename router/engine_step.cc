// One step of the engine: what the scheduler sees, and how its plan is followed.
#include <algorithm>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "router/engine.h"

namespace moepool {
namespace {

SequenceView View(const Sequence& s) {
  SequenceView view;
  view.id = s.id;
  view.known_tokens = static_cast<int>(s.tokens.size());
  view.computed_tokens = s.computed;
  view.arrived = s.arrived;
  view.deadline = s.request.deadline;
  return view;
}

}  // namespace

absl::Status Engine::Step(const std::shared_ptr<const RoutingTable>& routes) {
  TraceSpan step("step");
  TraceSpan plan("plan");
  MakePlan();
  Expire(plan_.expired);
  Preempt(plan_.preempted);
  Admit(plan_.admitted);
  if (!plan_.preempted.empty() || !plan_.admitted.empty()) {
    queue_->SetEngineWaiting(static_cast<int>(waiting_.size()));
  }
  BuildRows(plan_.chunks);
  plan.End();
  if (rows_.empty()) return absl::OkStatus();

  const absl::Time begin = absl::Now();
  TraceSpan forward("forward", {"rows", static_cast<int64_t>(rows_.size())});
  faults_.assign(rows_.size(), 0);
  dispatcher_->SetStepDeadline(step_deadline_);
  absl::Status status = decoder_->Forward(
      rows_, *kv_, dispatcher_.get(), routes, MicroBatchesOfStep(*routes), faults_,
      [this] { return StepIsVain(); }, [this](int row, int32_t id) { OnPicked(row, id); },
      [this](int row, std::span<float> logits) { OnLogits(row, logits); });
  forward.End();
  if (absl::IsCancelled(status)) {
    // All its sequences end before the next step is planned.
    stats_.abandoned_steps += 1;
    return absl::OkStatus();
  }
  if (!status.ok()) {
    // A worker was lost and is out of the pool, or the routes were out of date. Keys and values of the step
    // are written again, with the same numbers.
    stats_.failed_steps += 1;
    for (const ChunkResult& result : results_) ++result.sequence->retries;
    return status;
  }
  stats_.steps += 1;
  const LayersTime& layers = decoder_->layers_time();
  stats_.steps_by_micro_batches[static_cast<size_t>(std::max(layers.micro_batches, 1) - 1)] += 1;
  if (layers.micro_batches > 0) micro_batches_.Add(layers);
  stats_.step_seconds += absl::ToDoubleSeconds(absl::Now() - begin);
  stats_.last_step_rows = static_cast<int>(rows_.size());
  const TraceSpan commit("commit", {"sequences", static_cast<int64_t>(plan_.chunks.size())});
  for (size_t i = 0; i < plan_.chunks.size(); ++i) Commit(i);
  return absl::OkStatus();
}

int Engine::MicroBatchesOfStep(const RoutingTable& routes) const {
  if (options_.micro_batches > 0) return options_.micro_batches;
  return routes.HasWorkersElsewhere() ? micro_batches_.Choose(static_cast<int>(rows_.size())) : 1;
}

bool Engine::StepIsVain() {
  if (step_deadline_ != absl::InfiniteFuture() && absl::Now() >= step_deadline_) return true;
  return std::all_of(results_.begin(), results_.end(),
                     [this](const ChunkResult& result) { return queue_->Cancelled(result.sequence->id); });
}

void Engine::MakePlan() {
  running_ids_.clear();
  for (const auto& s : running_) running_ids_.push_back(s->id);
  own_blocks_.resize(running_.size());
  kv_->CountOwnBlocks(running_ids_, own_blocks_);
  running_views_.clear();
  for (size_t i = 0; i < running_.size(); ++i) {
    SequenceView& view = running_views_.emplace_back(View(*running_[i]));
    view.table_blocks = static_cast<int>(kv_->BlockTable(view.id).size());
    view.held_blocks = kv_->HeldBlocks(view.id);
    view.own_blocks = own_blocks_[i];
  }
  waiting_views_.clear();
  for (const auto& s : waiting_) waiting_views_.push_back(View(*s));
  SchedulerSnapshot snapshot;
  snapshot.now = absl::Now();
  snapshot.running = running_views_;
  snapshot.waiting = waiting_views_;
  snapshot.free_blocks = kv_->free_blocks();
  snapshot.cached = [this](size_t i) {
    const CachedPrefix prefix = kv_->FindPrefix(waiting_[i]->rope, waiting_[i]->reusable());
    return CachedTokens{prefix.tokens, prefix.blocks, prefix.idle_blocks};
  };
  plan_ = scheduler_->Plan(snapshot);
}

void Engine::Expire(std::span<const SequenceId> ids) {
  for (const SequenceId id : ids) Fail(id, absl::DeadlineExceededError("the request's deadline has passed"));
}

// What is full and committed stays in the prefix cache as long as nobody needs the blocks; what has been
// sampled stays with the sequence. The random number of an output is its index's, so that it goes on with the
// same ids.
void Engine::Preempt(std::span<const SequenceId> ids) {
  for (size_t i = ids.size(); i-- > 0;) {
    MOEPOOL_CHECK(!running_.empty() && running_.back()->id == ids[i]);
    std::unique_ptr<Sequence> sequence = std::move(running_.back());
    running_.pop_back();
    kv_->Release(sequence->id);
    if (sequence->next_logits >= 0) {
      sequence->next_logits = std::max(sequence->next_logits, sequence->computed);
    }
    sequence->computed = 0;
    ++sequence->preemptions;
    waiting_.insert(waiting_.begin(), std::move(sequence));
    stats_.preemptions += 1;
  }
}

void Engine::Admit(std::span<const SequenceId> ids) {
  for (const SequenceId id : ids) {
    MOEPOOL_CHECK(!waiting_.empty() && waiting_.front()->id == id);
    Sequence& sequence = *waiting_.front();
    const CachedPrefix prefix = kv_->Open(id, sequence.rope, sequence.reusable());
    sequence.computed = prefix.tokens;
    if (sequence.admitted == absl::InfiniteFuture()) {
      sequence.admitted = absl::Now();
      sequence.cached_tokens = prefix.tokens;
      sequence.round_trips_before = dispatcher_->round_trips();
      if (kv_->prefix_cache() && !sequence.request.prompt_logprobs)
        stats_.prefix_queries += static_cast<uint64_t>(sequence.prompt_tokens());
      stats_.prefix_hits += static_cast<uint64_t>(prefix.tokens);
    }
    running_.push_back(std::move(waiting_.front()));
    waiting_.erase(waiting_.begin());
  }
}

void Engine::BuildRows(std::span<const StepChunk> chunks) {
  rows_.clear();
  chunk_of_row_.clear();
  results_.clear();
  results_.resize(chunks.size());
  step_deadline_ = absl::InfinitePast();
  for (size_t i = 0; i < chunks.size(); ++i) {
    const StepChunk& chunk = chunks[i];
    Sequence* sequence = Find(chunk.id);
    MOEPOOL_CHECK(sequence != nullptr && sequence->computed == chunk.begin);
    const absl::Status grown = kv_->Grow(chunk.id, chunk.begin + chunk.count);
    MOEPOOL_CHECK(grown.ok());  // the scheduler counts blocks
    results_[i].sequence = sequence;
    step_deadline_ = std::max(step_deadline_, sequence->request.deadline);
    results_[i].first_row = rows_.size();
    const int32_t* table = kv_->BlockTable(chunk.id).data();
    for (int position = chunk.begin; position < chunk.begin + chunk.count; ++position) {
      StepRow row;
      row.token = sequence->tokens[static_cast<size_t>(position)];
      row.position = position;
      row.block_table = table;
      row.rope = sequence->rope;
      const bool samples = !sequence->scores() && sequence->request.max_tokens > 0 && chunk.sample &&
                           position + 1 == chunk.begin + chunk.count;
      if (samples) row.pick = PickOf(*sequence);
      row.wants_logits = samples || sequence->wants_logits(position);
      rows_.push_back(row);
      chunk_of_row_.push_back(i);
    }
  }
}

}  // namespace moepool
