#include "common/rpc/trunk_convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/rpc/gpu_convert.h"

namespace moepool {
namespace {

trunk::v1::Dry ToProto(const DryParams& dry) {
  trunk::v1::Dry proto;
  proto.set_multiplier(dry.multiplier);
  proto.set_base(dry.base);
  proto.set_allowed_length(dry.allowed_length);
  proto.set_penalty_last_n(dry.penalty_last_n);
  proto.mutable_breaker_ids()->Add(dry.breaker_ids.begin(), dry.breaker_ids.end());
  for (const std::vector<int32_t>& sequence : dry.breaker_sequences) {
    proto.add_breaker_sequences()->mutable_ids()->Add(sequence.begin(), sequence.end());
  }
  return proto;
}

DryParams FromProto(const trunk::v1::Dry& proto) {
  DryParams dry;
  dry.multiplier = proto.multiplier();
  dry.base = proto.base();
  dry.allowed_length = proto.allowed_length();
  dry.penalty_last_n = proto.penalty_last_n();
  dry.breaker_ids.assign(proto.breaker_ids().begin(), proto.breaker_ids().end());
  for (const trunk::v1::IdSequence& sequence : proto.breaker_sequences()) {
    dry.breaker_sequences.emplace_back(sequence.ids().begin(), sequence.ids().end());
  }
  return dry;
}

trunk::v1::SamplingParams ToProto(const SamplingParams& params) {
  trunk::v1::SamplingParams proto;
  proto.set_temperature(params.temperature);
  proto.set_top_p(params.top_p);
  proto.set_top_k(params.top_k);
  proto.set_min_p(params.min_p);
  proto.set_seed(params.seed);
  proto.set_presence_penalty(params.presence_penalty);
  proto.set_frequency_penalty(params.frequency_penalty);
  proto.set_repetition_penalty(params.repetition_penalty);
  for (const LogitBias& b : params.logit_bias) {
    trunk::v1::LogitBias* const bias = proto.add_logit_bias();
    bias->set_id(b.id);
    bias->set_bias(b.bias);
  }
  proto.set_min_tokens(params.min_tokens);
  proto.set_logprobs(params.logprobs);
  proto.set_top_logprobs(params.top_logprobs);
  if (params.repeat_last_n.has_value()) proto.set_repeat_last_n(*params.repeat_last_n);
  if (params.dry.multiplier != 0) *proto.mutable_dry() = ToProto(params.dry);
  return proto;
}

SamplingParams FromProto(const trunk::v1::SamplingParams& proto) {
  SamplingParams params;
  params.temperature = proto.temperature();
  params.top_p = proto.top_p();
  params.top_k = proto.top_k();
  params.min_p = proto.min_p();
  params.seed = proto.seed();
  params.presence_penalty = proto.presence_penalty();
  params.frequency_penalty = proto.frequency_penalty();
  params.repetition_penalty = proto.repetition_penalty();
  for (const trunk::v1::LogitBias& b : proto.logit_bias()) params.logit_bias.push_back({b.id(), b.bias()});
  params.min_tokens = proto.min_tokens();
  params.logprobs = proto.logprobs();
  params.top_logprobs = proto.top_logprobs();
  if (proto.has_repeat_last_n()) params.repeat_last_n = proto.repeat_last_n();
  if (proto.has_dry()) params.dry = FromProto(proto.dry());
  return params;
}

trunk::v1::Tokenizer ToProto(const TokenizerSpec& spec) {
  trunk::v1::Tokenizer proto;
  proto.set_model(spec.model);
  proto.set_pre(spec.pre);
  for (const std::string& token : spec.tokens) proto.add_tokens(token);
  for (const TokenType type : spec.types) proto.add_types(static_cast<int32_t>(type));
  proto.mutable_scores()->Add(spec.scores.begin(), spec.scores.end());
  for (const std::string& merge : spec.merges) proto.add_merges(merge);
  proto.set_bos_id(spec.bos_id);
  proto.set_eos_id(spec.eos_id);
  proto.set_eot_id(spec.eot_id);
  proto.set_unk_id(spec.unk_id);
  proto.set_pad_id(spec.pad_id);
  proto.set_add_bos(spec.add_bos);
  proto.set_add_eos(spec.add_eos);
  proto.set_add_space_prefix(spec.add_space_prefix);
  proto.set_chat_template(spec.chat_template);
  proto.set_remove_extra_whitespaces(spec.remove_extra_whitespaces);
  proto.set_strip_after_special(spec.strip_after_special);
  proto.set_precompiled_charsmap(spec.precompiled_charsmap);
  return proto;
}

absl::StatusOr<TokenizerSpec> FromProto(trunk::v1::Tokenizer proto) {
  TokenizerSpec spec;
  spec.model = std::move(*proto.mutable_model());
  spec.pre = std::move(*proto.mutable_pre());
  spec.tokens.assign(std::make_move_iterator(proto.mutable_tokens()->begin()),
                     std::make_move_iterator(proto.mutable_tokens()->end()));
  for (const int32_t type : proto.types()) {
    if (type < 0 || type > static_cast<int32_t>(TokenType::kByte)) {
      return absl::DataLossError(absl::StrCat("token type ", type, " is not in 0 to 6"));
    }
    spec.types.push_back(static_cast<TokenType>(type));
  }
  spec.scores.assign(proto.scores().begin(), proto.scores().end());
  spec.merges.assign(std::make_move_iterator(proto.mutable_merges()->begin()),
                     std::make_move_iterator(proto.mutable_merges()->end()));
  spec.bos_id = proto.bos_id();
  spec.eos_id = proto.eos_id();
  spec.eot_id = proto.eot_id();
  spec.unk_id = proto.unk_id();
  spec.pad_id = proto.pad_id();
  spec.add_bos = proto.add_bos();
  spec.add_eos = proto.add_eos();
  spec.add_space_prefix = proto.add_space_prefix();
  spec.chat_template = std::move(*proto.mutable_chat_template());
  spec.remove_extra_whitespaces = proto.remove_extra_whitespaces();
  spec.strip_after_special = proto.strip_after_special();
  spec.precompiled_charsmap = std::move(*proto.mutable_precompiled_charsmap());
  return spec;
}

}  // namespace

trunk::v1::TrunkRequest ToProto(const SequenceRequest& request) {
  trunk::v1::TrunkRequest proto;
  proto.set_request_id(request.request_id);
  proto.mutable_prompt()->Add(request.prompt.begin(), request.prompt.end());
  proto.set_max_tokens(request.max_tokens);
  *proto.mutable_sampling() = ToProto(request.sampling);
  proto.mutable_stop_ids()->Add(request.stop_ids.begin(), request.stop_ids.end());
  if (!request.constraint.grammar.empty()) {
    proto.mutable_constraint()->set_grammar(request.constraint.grammar);
    proto.mutable_constraint()->set_begin_after(request.constraint.begin_after);
    proto.mutable_constraint()->set_may_end_free(request.constraint.may_end_free);
    proto.mutable_constraint()->set_thought_end(request.constraint.thought_end);
    proto.mutable_constraint()->set_thought_start(request.constraint.thought_start);
  }
  if (const ReasoningLimit& limit = request.reasoning; limit.max_tokens >= 0) {
    trunk::v1::ReasoningLimit* const reasoning = proto.mutable_reasoning();
    reasoning->set_max_tokens(limit.max_tokens);
    reasoning->mutable_start_ids()->Add(limit.start_ids.begin(), limit.start_ids.end());
    reasoning->mutable_end_ids()->Add(limit.end_ids.begin(), limit.end_ids.end());
    reasoning->mutable_close_ids()->Add(limit.close_ids.begin(), limit.close_ids.end());
  }
  proto.set_prompt_logprobs(request.prompt_logprobs);
  proto.set_traceparent(request.traceparent);
  return proto;
}

SequenceRequest FromProto(const trunk::v1::TrunkRequest& proto) {
  SequenceRequest request;
  request.request_id = proto.request_id();
  request.prompt.assign(proto.prompt().begin(), proto.prompt().end());
  request.max_tokens = proto.max_tokens();
  request.sampling = FromProto(proto.sampling());
  request.stop_ids.assign(proto.stop_ids().begin(), proto.stop_ids().end());
  request.constraint = {proto.constraint().grammar(), proto.constraint().begin_after(),
                        proto.constraint().may_end_free(), proto.constraint().thought_end(),
                        proto.constraint().thought_start()};
  if (const trunk::v1::ReasoningLimit& limit = proto.reasoning(); limit.has_max_tokens()) {
    request.reasoning = {limit.max_tokens(),
                         {limit.start_ids().begin(), limit.start_ids().end()},
                         {limit.end_ids().begin(), limit.end_ids().end()},
                         {limit.close_ids().begin(), limit.close_ids().end()}};
  }
  request.prompt_logprobs = proto.prompt_logprobs();
  request.traceparent = proto.traceparent();
  return request;
}

trunk::v1::ScoreRequest ToScoreProto(const SequenceRequest& request) {
  trunk::v1::ScoreRequest proto;
  proto.set_request_id(request.request_id);
  proto.mutable_ids()->Add(request.prompt.begin(), request.prompt.end());
  proto.set_first(request.first_logits);
  return proto;
}

SequenceRequest FromProto(const trunk::v1::ScoreRequest& proto) {
  SequenceRequest request;
  request.request_id = proto.request_id();
  request.prompt.assign(proto.ids().begin(), proto.ids().end());
  request.max_tokens = 0;
  request.first_logits = proto.first();
  return request;
}

trunk::v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs) {
  trunk::v1::TokenLogprobs proto;
  proto.set_logprob(logprobs.logprob);
  for (const IdLogprob& top : logprobs.top) {
    proto.add_top_ids(top.id);
    proto.add_top_logprobs(top.logprob);
  }
  return proto;
}

TokenLogprobs FromProto(const trunk::v1::TokenLogprobs& proto) {
  TokenLogprobs logprobs{proto.logprob(), {}};
  for (int i = 0; i < std::min(proto.top_ids_size(), proto.top_logprobs_size()); ++i) {
    logprobs.top.push_back({proto.top_ids(i), proto.top_logprobs(i)});
  }
  return logprobs;
}

trunk::v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return trunk::v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStop:
      return trunk::v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return trunk::v1::FINISH_REASON_LENGTH;
    case FinishReason::kToolCalls:  // no router's
      break;
  }
  return trunk::v1::FINISH_REASON_UNSPECIFIED;
}

FinishReason FromProto(trunk::v1::FinishReason reason) {
  switch (reason) {
    case trunk::v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case trunk::v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    default:
      return FinishReason::kNone;
  }
}

trunk::v1::ModelDescription ToProto(const ModelInfo& info) {
  trunk::v1::ModelDescription proto;
  proto.set_name(info.name);
  proto.set_family(info.family);
  proto.set_digest(std::string(info.digest.begin(), info.digest.end()));
  proto.set_context_tokens(info.context_tokens);
  proto.set_vocab_size(info.vocab_size);
  proto.set_layers(info.layers);
  proto.set_experts(info.experts);
  proto.set_experts_per_token(info.experts_per_token);
  proto.set_dense(info.dense);
  *proto.mutable_tokenizer() = ToProto(info.tokenizer);
  return proto;
}

absl::StatusOr<ModelInfo> FromProto(trunk::v1::ModelDescription proto) {
  ModelInfo info;
  if (proto.digest().size() != info.digest.size()) {
    return absl::DataLossError(
        absl::StrCat("model digest of ", proto.digest().size(), " bytes, not ", info.digest.size()));
  }
  if (proto.context_tokens() <= 0 || proto.vocab_size() <= 0) {
    return absl::DataLossError(absl::StrCat("model with a context of ", proto.context_tokens(),
                                            " tokens and a vocabulary of ", proto.vocab_size()));
  }
  std::copy(proto.digest().begin(), proto.digest().end(), info.digest.begin());
  info.name = std::move(*proto.mutable_name());
  info.family = std::move(*proto.mutable_family());
  info.context_tokens = proto.context_tokens();
  info.vocab_size = proto.vocab_size();
  info.layers = proto.layers();
  info.experts = proto.experts();
  info.experts_per_token = proto.experts_per_token();
  info.dense = proto.dense();
  absl::StatusOr<TokenizerSpec> spec = FromProto(std::move(*proto.mutable_tokenizer()));
  if (!spec.ok()) return spec.status();
  info.tokenizer = *std::move(spec);
  return info;
}

namespace {

void ToProto(const TimeHistogram& histogram, trunk::v1::TimeHistogram* proto) {
  proto->mutable_counts()->Add(histogram.counts().begin(), histogram.counts().end());
  proto->set_sum_seconds(histogram.sum_seconds());
}

TimeHistogram FromProto(const trunk::v1::TimeHistogram& proto) {
  std::array<uint64_t, TimeHistogram::kBuckets> counts{};
  const size_t known = std::min(counts.size(), static_cast<size_t>(proto.counts_size()));
  std::copy_n(proto.counts().begin(), known, counts.begin());
  TimeHistogram histogram;
  histogram.Set(counts, proto.sum_seconds());
  return histogram;
}

}  // namespace

trunk::v1::Pool ToProto(const PoolInfo& pool) {
  trunk::v1::Pool proto;
  proto.set_model(pool.model);
  proto.set_ready(pool.ready);
  proto.set_epoch(pool.epoch);
  for (const PoolWorkerInfo& worker : pool.workers) {
    trunk::v1::PoolWorker* w = proto.add_workers();
    w->set_id(worker.id);
    w->set_name(worker.name);
    w->set_state(worker.state);
    w->set_transport(worker.transport);
    w->set_backend(worker.backend);
    w->set_memory_limit_bytes(worker.memory_limit_bytes);
    w->set_expert_bytes(worker.expert_bytes);
    w->set_experts_held(worker.experts_held);
    w->set_experts(worker.experts);
    w->set_dispatches(worker.dispatches);
    w->set_round_trip_us(worker.round_trip_us);
    w->set_busy_ratio(worker.busy_ratio);
    w->set_rows(worker.rows);
    w->set_dispatch_us(worker.dispatch_us);
    w->set_combine_us(worker.combine_us);
    w->set_compute_us(worker.compute_us);
    w->set_sent_bytes(worker.sent_bytes);
    w->set_received_bytes(worker.received_bytes);
    ToProto(worker.dispatch, w->mutable_dispatch());
    ToProto(worker.combine, w->mutable_combine());
    if (worker.gpu.has_value()) ToProto(*worker.gpu, w->mutable_gpu());
  }
  proto.set_running(pool.running);
  proto.set_waiting(pool.waiting);
  proto.set_kv_blocks(pool.kv_blocks);
  proto.set_kv_blocks_free(pool.kv_blocks_free);
  proto.set_waiting_for(pool.waiting_for);
  trunk::v1::EngineTotals* totals = proto.mutable_totals();
  totals->set_steps(pool.totals.steps);
  totals->set_prefill_rows(pool.totals.prefill_rows);
  totals->set_decode_rows(pool.totals.decode_rows);
  ToProto(pool.totals.exchange, totals->mutable_exchange());
  ToProto(pool.totals.exchange_own, totals->mutable_exchange_own());
  proto.set_layers(pool.layers);
  proto.set_experts(pool.experts);
  proto.mutable_expert_tokens()->Add(pool.expert_tokens.begin(), pool.expert_tokens.end());
  proto.mutable_expert_tokens_last_minute()->Add(pool.expert_tokens_last_minute.begin(),
                                                 pool.expert_tokens_last_minute.end());
  proto.mutable_load_ratio()->Add(pool.load_ratio.begin(), pool.load_ratio.end());
  if (pool.gpu.has_value()) ToProto(*pool.gpu, proto.mutable_gpu());
  return proto;
}

PoolInfo FromProto(const trunk::v1::Pool& proto) {
  PoolInfo pool;
  pool.model = proto.model();
  pool.ready = proto.ready();
  pool.epoch = proto.epoch();
  for (const trunk::v1::PoolWorker& w : proto.workers()) {
    pool.workers.push_back({.id = w.id(),
                            .name = w.name(),
                            .state = w.state(),
                            .transport = w.transport(),
                            .backend = w.backend(),
                            .memory_limit_bytes = w.memory_limit_bytes(),
                            .expert_bytes = w.expert_bytes(),
                            .experts_held = w.experts_held(),
                            .experts = w.experts(),
                            .dispatches = w.dispatches(),
                            .round_trip_us = w.round_trip_us(),
                            .busy_ratio = w.busy_ratio(),
                            .rows = w.rows(),
                            .dispatch_us = w.dispatch_us(),
                            .combine_us = w.combine_us(),
                            .compute_us = w.compute_us(),
                            .sent_bytes = w.sent_bytes(),
                            .received_bytes = w.received_bytes(),
                            .dispatch = FromProto(w.dispatch()),
                            .combine = FromProto(w.combine())});
    if (w.has_gpu()) pool.workers.back().gpu = FromProto(w.gpu());
  }
  pool.running = proto.running();
  pool.waiting = proto.waiting();
  pool.kv_blocks = proto.kv_blocks();
  pool.kv_blocks_free = proto.kv_blocks_free();
  pool.waiting_for = proto.waiting_for();
  const trunk::v1::EngineTotals& totals = proto.totals();
  pool.totals.steps = totals.steps();
  pool.totals.prefill_rows = totals.prefill_rows();
  pool.totals.decode_rows = totals.decode_rows();
  pool.totals.exchange = FromProto(totals.exchange());
  pool.totals.exchange_own = FromProto(totals.exchange_own());
  pool.layers = proto.layers();
  pool.experts = proto.experts();
  pool.expert_tokens.assign(proto.expert_tokens().begin(), proto.expert_tokens().end());
  pool.expert_tokens_last_minute.assign(proto.expert_tokens_last_minute().begin(),
                                        proto.expert_tokens_last_minute().end());
  pool.load_ratio.assign(proto.load_ratio().begin(), proto.load_ratio().end());
  if (proto.has_gpu()) pool.gpu = FromProto(proto.gpu());
  return pool;
}

}  // namespace moepool
