#include "gateway/generate_service.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "common/rpc/rpc_status.h"
#include "common/rpc/stream_reactor.h"

namespace moepool {
namespace {

void ReadSampling(const v1::Sampling& proto, InferRequest* request) {
  SamplingParams& sampling = request->sampling;
  if (proto.has_temperature()) sampling.temperature = proto.temperature();
  if (proto.has_top_p()) sampling.top_p = proto.top_p();
  if (proto.has_top_k()) sampling.top_k = proto.top_k();
  if (proto.has_min_p()) sampling.min_p = proto.min_p();
  if (proto.has_seed()) request->seed = proto.seed();
  if (proto.has_presence_penalty()) sampling.presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) sampling.frequency_penalty = proto.frequency_penalty();
  if (proto.has_repetition_penalty()) sampling.repetition_penalty = proto.repetition_penalty();
  for (const auto& [id, bias] : proto.logit_bias()) sampling.logit_bias.push_back({id, bias});
  std::sort(sampling.logit_bias.begin(), sampling.logit_bias.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  sampling.logprobs = proto.logprobs();
  sampling.top_logprobs = proto.top_logprobs();
  sampling.min_tokens = proto.min_tokens();
  request->ignore_eos = proto.ignore_eos();
  if (proto.has_repeat_last_n()) sampling.repeat_last_n = proto.repeat_last_n();
  if (proto.has_dry_multiplier()) sampling.dry.multiplier = proto.dry_multiplier();
  if (proto.has_dry_base()) sampling.dry.base = proto.dry_base();
  if (proto.has_dry_allowed_length()) sampling.dry.allowed_length = proto.dry_allowed_length();
  if (proto.has_dry_penalty_last_n()) sampling.dry.penalty_last_n = proto.dry_penalty_last_n();
  if (proto.has_dry_sequence_breakers()) {
    const auto& strings = proto.dry_sequence_breakers().strings();
    request->dry_sequence_breakers.assign(strings.begin(), strings.end());
  }
}

absl::StatusOr<InferRequest> FromProto(const v1::GenerateRequest& proto) {
  InferRequest request;
  switch (proto.input_case()) {
    case v1::GenerateRequest::kPrompt:
      request.input = proto.prompt();
      break;
    case v1::GenerateRequest::kTokenIds:
      request.input = std::vector<int32_t>(proto.token_ids().ids().begin(), proto.token_ids().ids().end());
      break;
    case v1::GenerateRequest::kMessages: {
      std::vector<ChatMessage> messages;
      for (const v1::Message& message : proto.messages().messages())
        messages.push_back({message.role(), message.content(), nlohmann::ordered_json::object()});
      request.input = std::move(messages);
      break;
    }
    case v1::GenerateRequest::INPUT_NOT_SET:
      return InvalidField("input", "is missing: one of prompt, token_ids, messages");
  }
  request.raw = proto.raw();
  if (proto.has_max_tokens()) request.max_tokens = proto.max_tokens();
  ReadSampling(proto.sampling(), &request);
  request.stop.assign(proto.stop().begin(), proto.stop().end());
  if (proto.has_n()) request.n = proto.n();
  return request;
}

void ToProto(const LogprobEntry& entry, v1::TokenLogprob* proto) {
  proto->set_id(entry.id);
  proto->set_token(entry.bytes);
  proto->set_logprob(entry.logprob);
}

// What the event adds to a message of its answer's.
void Add(const InferEvent& event, v1::GenerateResponse* message) {
  message->set_index(event.index);
  message->mutable_text()->append(event.text);
  message->mutable_token_ids()->Add(event.ids.begin(), event.ids.end());
  for (const TokenLogprobEntries& entries : event.logprobs) {
    v1::TokenLogprobs* const logprobs = message->add_logprobs();
    ToProto(entries.token, logprobs->mutable_token());
    for (const LogprobEntry& top : entries.top) ToProto(top, logprobs->add_top());
  }
  if (event.ended) {
    message->set_finish_reason(event.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                   : v1::FINISH_REASON_LENGTH);
    message->set_seed(event.seed);
  }
  if (event.finished && event.status.ok()) {
    message->mutable_usage()->set_prompt_tokens(event.usage.prompt_tokens);
    message->mutable_usage()->set_cached_tokens(event.usage.cached_tokens);
    message->mutable_usage()->set_completion_tokens(event.usage.completion_tokens);
    message->mutable_timings()->set_queue_ms(event.timings.queue_ms);
    message->mutable_timings()->set_ttft_ms(event.timings.ttft_ms);
    message->mutable_timings()->set_decode_ms(event.timings.decode_ms);
    message->set_model(event.model);
  }
}

// One call. While a message is being written, events gather, one message an answer; the text of whole answers
// bounds them.
class GenerateReactor : public StreamReactor<v1::GenerateResponse> {
 public:
  void Start(Inference* inference, InferRequest request) {
    Open();
    auto self = std::static_pointer_cast<GenerateReactor>(shared_from_this());
    auto call =
        inference->Start(std::move(request), [self](InferEvent event) { self->OnEvent(std::move(event)); });
    MutexLock lock(&mutex_);
    if (cancelled_) call->Cancel();
    id_ = call->id();
    call_ = std::move(call);
  }

  // Refuses the call.
  void Fail(const absl::Status& status) {
    Open();
    MutexLock lock(&mutex_);
    End(status);
  }

 private:
  void OnEvent(InferEvent event) {
    MutexLock lock(&mutex_);
    if (event.finished) id_ = event.id;
    // Text that has come is not lost with an error.
    if (!event.finished || event.status.ok()) Gather(event);
    if (event.finished) return End(event.status);
    Flush();
  }

  void Gather(const InferEvent& event) REQUIRES(mutex_) {
    const auto it =
        std::find_if(gathered_.begin(), gathered_.end(),
                     [&](const v1::GenerateResponse& message) { return message.index() == event.index; });
    // An answer keeps its place, so that none waits behind another for ever; the last event is the last.
    if (it != gathered_.end() && !event.finished) return Add(event, &*it);
    v1::GenerateResponse message;
    if (it != gathered_.end()) {
      message = std::move(*it);
      gathered_.erase(it);
    }
    Add(event, &message);
    gathered_.push_back(std::move(message));
  }

  bool Take() REQUIRES(mutex_) override {
    if (gathered_.empty()) return false;
    current_ = std::move(gathered_.front());
    gathered_.pop_front();
    current_.set_id(id_);
    return true;
  }

  void OnLeft() REQUIRES(mutex_) override {
    cancelled_ = true;
    if (call_ != nullptr) call_->Cancel();
  }

  std::string id_ GUARDED_BY(mutex_);
  std::deque<v1::GenerateResponse> gathered_ GUARDED_BY(mutex_);  // of different answers
  bool cancelled_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<InferCall> call_ GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto reactor = std::make_shared<GenerateReactor>();
  absl::StatusOr<InferRequest> parsed = FromProto(*request);
  if (!parsed.ok()) {
    reactor->Fail(parsed.status());
    return reactor.get();
  }
  parsed->deadline = absl::FromChrono(context->deadline());
  reactor->Start(inference_, *std::move(parsed));
  return reactor.get();
}

grpc::ServerUnaryReactor* GenerateService::Tokenize(grpc::CallbackServerContext* context,
                                                    const v1::TokenizeRequest* request,
                                                    v1::TokenizeResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto ticket = inference_->admission().Admit();
  const auto model = inference_->Model();
  if (!ticket.ok() || !model.ok()) {
    reactor->Finish(ToGrpc(ticket.ok() ? model.status() : ticket.status()));
    return reactor;
  }
  const auto ids = EncodeText(**model, request->text(), request->parse_special());
  if (ids.ok()) {
    response->mutable_ids()->Add(ids->begin(), ids->end());
    for (const int32_t id : *ids) response->add_pieces((*model)->tokenizer->Bytes(id, /*special=*/true));
  }
  reactor->Finish(ToGrpc(ids.status()));
  return reactor;
}

grpc::ServerUnaryReactor* GenerateService::GetModel(grpc::CallbackServerContext* context,
                                                    const v1::GetModelRequest*,
                                                    v1::GetModelResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const auto model = inference_->Model();
  if (model.ok()) {
    const ModelInfo& info = (*model)->info;
    response->set_name(info.name);
    response->set_family(info.family);
    response->set_digest(std::string(info.digest.begin(), info.digest.end()));
    response->set_context_tokens(info.context_tokens);
    response->set_vocab_size(info.vocab_size);
    response->set_layers(info.layers);
    response->set_experts(info.experts);
    response->set_experts_per_token(info.experts_per_token);
    response->set_dense(info.dense);
  }
  reactor->Finish(ToGrpc(model.status()));
  return reactor;
}

}  // namespace moepool
