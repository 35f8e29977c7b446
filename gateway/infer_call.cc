#include "gateway/infer_call.h"

#include <algorithm>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "boost/asio/dispatch.hpp"
#include "boost/asio/post.hpp"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/trace.h"
#include "common/base/traceparent.h"

namespace moepool {
namespace {

uint64_t Random64() {
  static thread_local std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

// Seeds that are drawn stay under 2^53, those of further answers too, so that every JSON reader gives them
// back unchanged.
uint64_t DrawSeed() { return Random64() >> 12; }

double Milliseconds(absl::Duration duration) { return absl::ToDoubleMilliseconds(duration); }

}  // namespace

InferCallImpl::InferCallImpl(Inference* inference, InferRequest request, InferCallback on_event)
    : inference_(inference),
      metrics_(*inference->metrics_),
      request_(std::move(request)),
      on_event_(std::move(on_event)),
      id_(absl::StrFormat("infer-%016x%08x", Random64(), Random64() >> 32)),
      arrived_(absl::Now()) {
  metrics_.requests_waiting.Increment();
}

void InferCallImpl::Cancel() { FinishLater(absl::CancelledError("cancelled")); }

void InferCallImpl::RunLater(SerialTasks::AnyTask task) {
  tasks_.Add(std::move(task));
  boost::asio::post(inference_->stream_pool_, [self = shared_from_this()] { self->tasks_.RunAdded(); });
}

void InferCallImpl::FinishLater(absl::Status status) {
  RunLater([self = shared_from_this(), status = std::move(status)] { self->Finish(status); });
}

void InferCallImpl::Start() {
  TraceAsyncBegin("request", reinterpret_cast<uintptr_t>(this));
  auto ticket = Admit();
  if (!ticket.ok()) return FinishLater(ticket.status());
  boost::asio::dispatch(
      inference_->preparation_pool_, [self = shared_from_this(), ticket = *std::move(ticket)]() mutable {
        absl::StatusOr<Preparation> made = self->Prepare();
        self->tasks_.Run([self, ticket = std::move(ticket), made = std::move(made)]() mutable {
          if (self->over_) return;  // cancelled meanwhile
          self->ticket_ = std::move(ticket);
          const absl::Status status = made.ok() ? self->Submit(*std::move(made)) : made.status();
          if (!status.ok()) self->Finish(status);
        });
      });
}

absl::StatusOr<std::unique_ptr<Admission::Ticket>> InferCallImpl::Admit() {
  MOEPOOL_RETURN_IF_ERROR(ValidateInferRequest(request_));
  Admission& admission = inference_->admission_;
  if (request_.n > admission.max_places()) {
    return InvalidField("n", absl::StrCat("is ", request_.n, ", and this gateway answers ",
                                          admission.max_places(), " at once"));
  }
  return admission.Admit(request_.n);
}

absl::StatusOr<InferCallImpl::Preparation> InferCallImpl::Prepare() const {
  const TraceSpan span("prompt");
  Preparation made;
  MOEPOOL_ASSIGN_OR_RETURN(made.model, inference_->Model());
  MOEPOOL_ASSIGN_OR_RETURN(made.plan, PlanAnswer(*made.model, request_, absl::Now()));
  MOEPOOL_RETURN_IF_ERROR(FillSequence(*made.model, &made.plan, &made.sequence));
  return made;
}

absl::Status InferCallImpl::FillSequence(const ServedModel& model, AnswerPlan* plan,
                                         SequenceRequest* sequence) const {
  sequence->prompt = std::move(plan->prompt);
  sequence->constraint = plan->constraint;
  sequence->reasoning = plan->reasoning;
  sequence->request_id = request_.request_id.empty() ? id_ : request_.request_id;
  sequence->traceparent = request_.traceparent;
  sequence->max_tokens = std::min(request_.max_tokens,
                                  model.info.context_tokens - static_cast<int32_t>(sequence->prompt.size()));
  sequence->sampling = request_.sampling;
  if (DryParams& dry = sequence->sampling.dry; dry.multiplier != 0 && dry.penalty_last_n != 0) {
    MOEPOOL_ASSIGN_OR_RETURN(const std::shared_ptr<const DryBreakers> breakers,
                             model.dry_breakers->Get(request_.dry_sequence_breakers));
    dry.breaker_ids = breakers->ids;
    dry.breaker_sequences = breakers->sequences;
    MOEPOOL_RETURN_IF_ERROR(SamplingField(ValidateSampling(sequence->sampling)));
  }
  MOEPOOL_RETURN_IF_ERROR(SamplingField(ValidateSamplingIds(sequence->sampling, model.info.vocab_size)));
  sequence->prompt_logprobs = request_.prompt_logprobs;
  // Evaluation harnesses ask for a prompt's log-probabilities with one token more, and drop the last of the
  // list whatever it is: the model's end must not leave it out.
  const bool scored = request_.echo && request_.prompt_logprobs && sequence->max_tokens <= 1;
  if (!request_.ignore_eos && !scored) sequence->stop_ids = model.stop_ids;
  sequence->deadline = std::min(request_.deadline, arrived_ + inference_->options_.request_timeout);
  return absl::OkStatus();
}

absl::Status InferCallImpl::TakeTokens(SequenceRequest* sequence) {
  const int64_t most = inference_->admission_.max_tokens();
  if (request_.max_tokens == kLengthOfContext && most > 0) {
    const int64_t each = (most - usage_.prompt_tokens) / request_.n;
    sequence->max_tokens =
        static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(each, 1), sequence->max_tokens));
  }
  return ticket_->TakeTokens(usage_.prompt_tokens + int64_t{request_.n} * sequence->max_tokens);
}

absl::Status InferCallImpl::Submit(Preparation preparation) {
  model_ = std::move(preparation.model);
  plan_ = std::move(preparation.plan);
  SequenceRequest& sequence = preparation.sequence;
  usage_.prompt_tokens = static_cast<int32_t>(sequence.prompt.size());
  if (request_.echo || request_.prompt_logprobs) prompt_ = sequence.prompt;
  MOEPOOL_RETURN_IF_ERROR(TakeTokens(&sequence));
  answers_.resize(static_cast<size_t>(request_.n));
  running_ = answers_.size();
  const std::string request_id = sequence.request_id;
  const bool begins_text = UsesTemplate(*model_, request_);
  const uint64_t first_seed = request_.seed.has_value() ? *request_.seed : DrawSeed();
  for (size_t i = 0; i < answers_.size(); ++i) {
    Answer& answer = answers_[i];
    answer.index = static_cast<int32_t>(i);
    answer.seed = first_seed + i;
    answer.text.emplace(model_->tokenizer.get(), request_.stop, request_.sampling.min_tokens, begins_text,
                        plan_.parsed ? model_->marker_ids : std::vector<int32_t>());
    if (plan_.parsed) answer.parser.emplace(plan_.parser);
    sequence.sampling.seed = answer.seed;
    if (i > 0) sequence.request_id = absl::StrCat(request_id, "-", i);
    if (sequence.max_tokens == 0 && !sequence.prompt_logprobs) {  // nothing that a router could add
      InferEvent event;
      event.index = answer.index;
      ShowPrompt(&answer, {}, &event);
      End(&answer, FinishReason::kLength, std::move(event));
      continue;
    }
    SequenceRequest copy = i + 1 < answers_.size() ? sequence : std::move(sequence);
    absl::StatusOr<std::unique_ptr<TrunkCall>> call = inference_->trunk_->Generate(
        std::move(copy), [self = shared_from_this(), answer = &answer](SequenceUpdate update) {
          auto task = [self, answer, update = std::move(update)]() mutable {
            self->OnUpdate(answer, std::move(update));
          };
          if (self->inference_->trunk_->lends_threads()) return self->tasks_.Run(std::move(task));
          self->RunLater(std::move(task));
        });
    if (!call.ok()) return Of(answer, call.status());
    answer.call = *std::move(call);
  }
  return absl::OkStatus();
}

void InferCallImpl::OnUpdate(Answer* answer, SequenceUpdate update) {
  if (over_ || answer->over) return;
  const TraceSpan span("text", {"ids", static_cast<int64_t>(update.ids.size())});
  answer->cached_tokens = std::max(answer->cached_tokens, update.cached_tokens);
  queue_ms_ = std::max(queue_ms_, update.queue_ms);
  prefill_ms_ = std::max(prefill_ms_, update.prefill_ms);
  preemptions_ = std::max(preemptions_, update.preemptions);
  retries_ = std::max(retries_, update.retries);
  if (!update.slowest_worker.empty()) slowest_worker_ = update.slowest_worker;
  if (update.logprobs.size() != (request_.sampling.logprobs ? update.ids.size() : 0)) {
    return Finish(
        Of(*answer, absl::InternalError(absl::StrCat("the router sent ", update.ids.size(), " ids and ",
                                                     update.logprobs.size(), " log-probabilities"))));
  }
  InferEvent event = Read(answer, update);
  const bool ended = update.finished && update.status.ok();
  if (answer->text->stopped() || ended) {
    FlushText(answer, &event);
    FinishReason reason = answer->text->stopped() ? FinishReason::kStop : update.reason;
    const bool called = answer->parser.has_value() && answer->parser->called_tools();
    if (reason == FinishReason::kStop && called) reason = FinishReason::kToolCalls;
    return End(answer, reason, std::move(event));
  }
  if (!event.text.empty() || !event.ids.empty() || !event.prompt_logprobs.empty())
    on_event_(std::move(event));
  if (!update.finished) return;
  if (update.status.code() == absl::StatusCode::kUnavailable) inference_->watcher_->Refresh();
  Finish(Of(*answer, update.status));
}

InferEvent InferCallImpl::Read(Answer* answer, const SequenceUpdate& update) {
  InferEvent event;
  event.index = answer->index;
  ShowPrompt(answer, update, &event);
  if (update.ids.empty()) return event;
  size_t used = 0;
  while (used < update.ids.size() && !answer->text->stopped()) {
    usage_.reasoning_tokens += answer->parser.has_value() && answer->parser->thinking() ? 1 : 0;
    AddText(answer, answer->text->Push(std::span(update.ids).subspan(used, 1)).text, &event);
    ++used;
  }
  event.ids.assign(update.ids.begin(), update.ids.begin() + static_cast<std::ptrdiff_t>(used));
  for (size_t i = 0; i < std::min(used, update.logprobs.size()); ++i) {
    event.logprobs.push_back(Entries(update.ids[i], update.logprobs[i]));
  }
  CountIds(answer, static_cast<int32_t>(used));
  return event;
}

void InferCallImpl::AddText(Answer* answer, const std::string& text, InferEvent* event) {
  if (!answer->parser.has_value()) {
    event->text += text;
    return;
  }
  AnswerParser::Output out = answer->parser->Push(text);
  event->reasoning += out.reasoning;
  event->text += out.text;
  AppendDeltas(std::move(out.tool_calls), &event->tool_calls);
}

void InferCallImpl::FlushText(Answer* answer, InferEvent* event) {
  AddText(answer, answer->text->Finish(), event);
  if (!answer->parser.has_value()) return;
  AnswerParser::Output out = answer->parser->Finish();
  event->reasoning += out.reasoning;
  event->text += out.text;
  AppendDeltas(std::move(out.tool_calls), &event->tool_calls);
}

void InferCallImpl::ShowPrompt(Answer* answer, const SequenceUpdate& update, InferEvent* event) {
  if (!std::exchange(answer->prompt_shown, true)) {
    if (request_.echo) {
      const auto* const text = std::get_if<std::string>(&request_.input);
      event->text = text != nullptr ? *text : DecodeIds(*model_, prompt_, /*special=*/true).value_or("");
    }
    if (request_.prompt_logprobs) {
      answer->prompt_entries = 1;
      event->prompt_logprobs.push_back(Entries(prompt_[0], {std::numeric_limits<float>::quiet_NaN(), {}}));
    }
  }
  for (const TokenLogprobs& given : update.prompt_logprobs) {
    if (answer->prompt_entries >= prompt_.size()) break;  // more than were asked for
    event->prompt_logprobs.push_back(Entries(prompt_[answer->prompt_entries++], given));
  }
}

TokenLogprobEntries InferCallImpl::Entries(int32_t id, const TokenLogprobs& given) const {
  TokenLogprobEntries entries;
  entries.token = Entry(id, given.logprob);
  for (const IdLogprob& top : given.top) entries.top.push_back(Entry(top.id, top.logprob));
  return entries;
}

LogprobEntry InferCallImpl::Entry(int32_t id, float logprob) const {
  return {id, model_->tokenizer->Bytes(id, /*special=*/true), logprob};
}

void InferCallImpl::CountIds(Answer* answer, int32_t count) {
  const absl::Time now = absl::Now();
  if (usage_.completion_tokens == 0) {
    first_token_ = now;
    ticket_->Start();
    metrics_.requests_waiting.Decrement();
    metrics_.requests_running.Increment();
    metrics_.time_to_first_token.Observe(absl::ToDoubleSeconds(now - arrived_));
  }
  if (answer->tokens > 0) {
    const double seconds = absl::ToDoubleSeconds(now - answer->last_token) / count;
    for (int32_t i = 0; i < count; ++i) metrics_.inter_token_latency.Observe(seconds);
  }
  answer->last_token = now;
  answer->tokens += count;
  last_token_ = now;
  usage_.completion_tokens += count;
  metrics_.generation_tokens.Increment(count);
}

void InferCallImpl::End(Answer* answer, FinishReason reason, InferEvent event) {
  answer->over = true;
  answer->reason = reason;
  answer->call.reset();  // cancels it where it runs
  event.ended = true;
  event.reason = reason;
  event.seed = answer->seed;
  if (--running_ == 0) return Finish(absl::OkStatus(), std::move(event));
  on_event_(std::move(event));
}

void InferCallImpl::Finish(const absl::Status& status, InferEvent event) {
  if (std::exchange(over_, true)) return;
  TraceAsyncEnd("request", reinterpret_cast<uintptr_t>(this), {"tokens", usage_.completion_tokens});
  for (Answer& answer : answers_) answer.call.reset();
  // The prompt is counted once: what no answer had to compute came from the cache.
  for (const Answer& answer : answers_) {
    usage_.cached_tokens =
        answer.index == 0 ? answer.cached_tokens : std::min(usage_.cached_tokens, answer.cached_tokens);
  }
  event.timings.queue_ms = queue_ms_;
  const bool started = usage_.completion_tokens > 0;
  if (started) {
    event.timings.ttft_ms = Milliseconds(first_token_ - arrived_);
    event.timings.decode_ms = Milliseconds(last_token_ - first_token_);
  }
  (started ? metrics_.requests_running : metrics_.requests_waiting).Decrement();
  Count(status);
  ticket_.reset();
  Log(LogLevel::kInfo, "request",
      {{"id", id_},
       {"request_id", request_.request_id},
       {"key", request_.key_name},
       {"status", absl::StatusCodeToString(status.code())},
       {"answers", request_.n},
       {"prompt_tokens", usage_.prompt_tokens},
       {"completion_tokens", usage_.completion_tokens},
       {"queue_ms", queue_ms_},
       {"ttft_ms", event.timings.ttft_ms},
       {"total_ms", Milliseconds(absl::Now() - arrived_)}});
  LogIfSlow(status, event.timings);
  event.finished = true;
  event.status = status;
  event.id = id_;
  event.usage = usage_;
  if (model_ != nullptr) event.model = model_->info.name;
  on_event_(std::move(event));
  on_event_ = nullptr;
  inference_->Ended(shared_from_this());
}

void InferCallImpl::LogIfSlow(const absl::Status& status, const Timings& timings) const {
  const absl::Duration took = absl::Now() - arrived_;
  if (took < inference_->options_.slow_request) return;
  Log(LogLevel::kWarning, "slow request",
      {{"id", id_},
       {"request_id", request_.request_id},
       {"trace_id", TraceIdOf(request_.traceparent)},
       {"status", absl::StatusCodeToString(status.code())},
       {"answers", request_.n},
       {"prompt_tokens", usage_.prompt_tokens},
       {"cached_tokens", usage_.cached_tokens},
       {"completion_tokens", usage_.completion_tokens},
       {"queue_ms", queue_ms_},
       {"prefill_ms", prefill_ms_},
       {"ttft_ms", timings.ttft_ms},
       {"decode_ms", timings.decode_ms},
       {"total_ms", Milliseconds(took)},
       {"preemptions", preemptions_},
       {"retries", retries_},
       {"slowest_worker", slowest_worker_}});
}

void InferCallImpl::Count(const absl::Status& status) {
  if (!status.ok()) return metrics_.Failure(status.code()).Increment();
  const auto any = [this](FinishReason reason) {
    return std::any_of(answers_.begin(), answers_.end(), [&](const Answer& a) { return a.reason == reason; });
  };
  (any(FinishReason::kLength)      ? metrics_.success_length
   : any(FinishReason::kToolCalls) ? metrics_.success_tool_calls
                                   : metrics_.success_stop)
      .Increment();
  metrics_.prompt_tokens.Increment(usage_.prompt_tokens);
  metrics_.cached_tokens.Increment(usage_.cached_tokens);
  metrics_.request_prompt_tokens.Observe(usage_.prompt_tokens);
  metrics_.request_generation_tokens.Observe(usage_.completion_tokens);
  metrics_.queue_time.Observe(queue_ms_ / 1e3);
  metrics_.prefill_time.Observe(prefill_ms_ / 1e3);
  metrics_.decode_time.Observe(absl::ToDoubleSeconds(last_token_ - first_token_));
  metrics_.request_latency.Observe(absl::ToDoubleSeconds(absl::Now() - arrived_));
}

absl::Status InferCallImpl::Of(const Answer& answer, const absl::Status& status) const {
  if (status.ok() || answers_.size() == 1) return status;
  absl::Status named(status.code(), absl::StrCat("answer ", answer.index, ": ", status.message()));
  status.ForEachPayload(
      [&named](absl::string_view type, const absl::Cord& payload) { named.SetPayload(type, payload); });
  return named;
}

}  // namespace moepool
