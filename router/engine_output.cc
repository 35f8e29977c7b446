// The engine's ends: what a request must be to come in, and what becomes of a step's logits.
#include <algorithm>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace.h"
#include "router/engine.h"

namespace moepool {
namespace {

double Milliseconds(absl::Duration d) { return absl::ToDoubleMilliseconds(d); }

// `status` with the place in the answer.
absl::Status AfterTokens(const Sequence& sequence, const absl::Status& status) {
  return {status.code(),
          StrCat("after ", sequence.generated(), " tokens of the answer: ", ToStd(status.message()))};
}

}  // namespace

absl::Status Engine::CheckRequest(const SequenceRequest& request) const {
  const int vocab = source_->Config().vocab_size;
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  if (prompt == 0) return absl::InvalidArgumentError("the prompt has 0 tokens, at least 1 is needed");
  for (const int32_t id : request.prompt) {
    if (id < 0 || id >= vocab) {
      return absl::InvalidArgumentError(
          StrCat("token id ", id, " of the prompt is outside the vocabulary of ", vocab));
    }
  }
  if (request.constraint.grammar.empty() && !request.constraint.begin_after.empty()) {
    return absl::InvalidArgumentError("a constraint that begins after a text has no grammar");
  }
  MOEPOOL_RETURN_IF_ERROR(CheckReasoning(request.reasoning));
  if (request.first_logits >= 0) {
    if (request.prompt_logprobs) {
      return absl::InvalidArgumentError("logits and prompt_logprobs were both asked for");
    }
    if (prompt > context_tokens_) {
      return absl::InvalidArgumentError(
          StrCat("the prompt has ", prompt, " tokens, the context is ", context_tokens_));
    }
    if (request.first_logits >= prompt) {
      return absl::InvalidArgumentError(StrCat("logits are asked for from position ", request.first_logits,
                                               ", the prompt has ", prompt, " tokens"));
    }
    return absl::OkStatus();
  }
  const int least_tokens = request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens < least_tokens) {
    return absl::InvalidArgumentError(
        StrCat("max_tokens is ", request.max_tokens, ", must be at least ", least_tokens));
  }
  if (prompt + request.max_tokens > context_tokens_) {
    return absl::InvalidArgumentError(StrCat("the prompt has ", prompt, " tokens and max_tokens is ",
                                             request.max_tokens, ", the context is ", context_tokens_));
  }
  for (const int32_t id : request.stop_ids) {
    if (id < 0 || id >= vocab) {
      return absl::InvalidArgumentError(StrCat("stop id ", id, " is outside the vocabulary of ", vocab));
    }
  }
  MOEPOOL_RETURN_IF_ERROR(ValidateSampling(request.sampling));
  return ValidateSamplingIds(request.sampling, vocab);
}

absl::Status Engine::CheckReasoning(const ReasoningLimit& limit) const {
  if (limit.max_tokens < 0) return absl::OkStatus();
  if (limit.end_ids.empty()) {
    return absl::InvalidArgumentError("a limit on reasoning has no ids to end it with");
  }
  const int vocab = source_->Config().vocab_size;
  for (const std::vector<int32_t>* ids : {&limit.start_ids, &limit.end_ids, &limit.close_ids}) {
    if (ids->size() > kMaxReasoningIds) {
      return absl::InvalidArgumentError(StrCat("reasoning begins or ends with ", ids->size(),
                                               " ids, at most ", kMaxReasoningIds, " are possible"));
    }
    for (const int32_t id : *ids) {
      if (id >= 0 && id < vocab) continue;
      return absl::InvalidArgumentError(
          StrCat("token id ", id, " of the limit on reasoning is outside the vocabulary of ", vocab));
    }
  }
  return absl::OkStatus();
}

void Engine::AnnotateTimes(const Sequence& s, SequenceUpdate* update) {
  update->queue_ms = Milliseconds(std::min(s.admitted, absl::Now()) - s.arrived);
  update->prefill_ms = s.prefill_ms;
  update->cached_tokens = s.cached_tokens;
}

void Engine::OnLogits(int row, std::span<float> logits) {
  ChunkResult& result = results_[chunk_of_row_[static_cast<size_t>(row)]];
  Sequence& sequence = *result.sequence;
  const int position = rows_[static_cast<size_t>(row)].position;
  if (options_.on_logits) options_.on_logits(sequence.request.request_id, position, logits);
  if (sequence.scores()) {
    result.logits.push_back({position, {logits.begin(), logits.end()}});
    return;
  }
  const std::span<const int32_t> all(sequence.tokens);
  if (sequence.wants_logits(position)) {
    // Turned into log-probabilities at once: the logits of a long prompt would take gigabytes.
    absl::StatusOr<TokenLogprobs> logprobs =
        LogprobsOf(logits, all[static_cast<size_t>(position) + 1], sequence.request.sampling.top_logprobs);
    if (logprobs.ok()) {
      result.prompt_logprobs.push_back(*std::move(logprobs));
    } else {
      result.prompt_status = logprobs.status();
    }
    return;
  }
  const TraceSpan span("sample");
  result.sampled = SampleNext(&sequence, logits);
}

SampleContext Engine::ContextOf(const Sequence& sequence) {
  const SequenceRequest& request = sequence.request;
  const std::span<const int32_t> all(sequence.tokens);
  return {.prompt = all.first(request.prompt.size()),
          .generated = all.subspan(request.prompt.size()),
          .stop_ids = request.stop_ids,
          .index = static_cast<uint64_t>(sequence.generated()),
          .allowed = {},
          .may_stop = true,
          .forced_id = sequence.reasoning.Forced(request.reasoning)};
}

std::optional<PickParams> Engine::PickOf(const Sequence& sequence) const {
  if (options_.on_logits || sequence.constraint.has_value()) return std::nullopt;
  const SampleContext context = ContextOf(sequence);
  if (NeedsLogits(sequence.request.sampling, context)) return std::nullopt;
  return PickParamsOf(sequence.request.sampling, context.index);
}

void Engine::OnPicked(int row, int32_t id) {
  results_[chunk_of_row_[static_cast<size_t>(row)]].sampled = SampledToken{id, {}};
}

absl::StatusOr<SampledToken> Engine::SampleNext(Sequence* sequence, std::span<float> logits) {
  const SequenceRequest& request = sequence->request;
  SampleContext context = ContextOf(*sequence);
  std::shared_ptr<const IdBits> mask;
  if (sequence->constraint.has_value() && context.forced_id < 0) {
    const absl::Time begin = absl::Now();
    auto known = sequence->constraint->Mask();
    stats_.constraint_mask_seconds += absl::ToDoubleSeconds(absl::Now() - begin);
    if (!known.ok()) return AfterTokens(*sequence, known.status());
    mask = *std::move(known);
    context.may_stop = sequence->constraint->MayEnd();
    if (mask != nullptr) context.allowed = *mask;
    const bool none =
        mask != nullptr && std::all_of(mask->begin(), mask->end(), [](uint64_t w) { return w == 0; });
    if (none && !context.may_stop) {
      return AfterTokens(*sequence, absl::InternalError("the constraint allows neither a token nor the end"));
    }
  }
  return Sample(request.sampling, context, logits);
}

void Engine::Commit(size_t chunk_index) {
  const StepChunk& chunk = plan_.chunks[chunk_index];
  ChunkResult& result = results_[chunk_index];
  Sequence& sequence = *result.sequence;
  for (int i = 0; i < chunk.count; ++i) {
    if (!faults_[result.first_row + static_cast<size_t>(i)]) continue;
    Fail(chunk.id,
         absl::DataLossError(StrCat("the model's numbers at position ", chunk.begin + i, " are not finite")));
    return;
  }
  const bool prefill = chunk.begin < sequence.prompt_tokens();
  (prefill ? stats_.prefill_rows : stats_.decode_rows) += static_cast<uint64_t>(chunk.count);
  sequence.computed = chunk.begin + chunk.count;
  kv_->Commit(chunk.id,
              std::span<const int32_t>(sequence.tokens).first(static_cast<size_t>(sequence.computed)));

  SequenceUpdate update;
  if (sequence.scores()) {
    update.logits = std::move(result.logits);
    if (sequence.computed == sequence.prompt_tokens()) {
      update.reason = FinishReason::kLength;
      Finish(chunk.id, std::move(update));
    } else if (!update.logits.empty()) {
      sequence.gate->Deliver(std::move(update));
    }
    return;
  }
  if (!result.prompt_status.ok()) {
    Fail(chunk.id, result.prompt_status);
    return;
  }
  update.prompt_logprobs = std::move(result.prompt_logprobs);
  if (!chunk.sample) {
    if (!update.prompt_logprobs.empty()) sequence.gate->Deliver(std::move(update));
    return;
  }
  if (sequence.generated() == 0) sequence.prefill_ms = Milliseconds(absl::Now() - sequence.admitted);
  if (sequence.request.max_tokens == 0) {
    update.reason = FinishReason::kLength;
    Finish(chunk.id, std::move(update));
    return;
  }
  if (!result.sampled.ok()) {
    Fail(chunk.id, result.sampled.status());
    return;
  }
  const int32_t id = result.sampled->id;
  const std::vector<int32_t>& stops = sequence.request.stop_ids;
  if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
    update.reason = FinishReason::kStop;
    Finish(chunk.id, std::move(update));
    return;
  }
  const bool forced = sequence.reasoning.Forced(sequence.request.reasoning) >= 0;
  if (forced && sequence.constraint.has_value()) sequence.constraint->AcceptForced(id);
  if (!forced && sequence.constraint.has_value() && !sequence.constraint->Accept(id)) {
    Fail(chunk.id, AfterTokens(sequence, absl::InvalidArgumentError(
                                             "the constraint is too ambiguous to follow the token picked")));
    return;
  }
  sequence.tokens.push_back(id);
  sequence.reasoning.Push(sequence.request.reasoning, id);
  update.ids.push_back(id);
  if (sequence.request.sampling.logprobs) update.logprobs.push_back(std::move(result.sampled->logprobs));
  if (sequence.generated() == 1) AnnotateTimes(sequence, &update);
  const bool complete = sequence.constraint.has_value() && sequence.constraint->IsComplete();
  if (complete || sequence.generated() == sequence.request.max_tokens) {
    update.reason = complete ? FinishReason::kStop : FinishReason::kLength;
    Finish(chunk.id, std::move(update));
    return;
  }
  sequence.gate->Deliver(std::move(update));
}

}  // namespace moepool
