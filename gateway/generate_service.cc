#include "gateway/generate_service.h"

#include <memory>
#include <utility>

#include "common/base/mutex.h"
#include "common/rpc/rpc_status.h"

namespace moepool {
namespace {

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
        messages.push_back({message.role(), message.content()});
      request.input = std::move(messages);
      break;
    }
    case v1::GenerateRequest::INPUT_NOT_SET:
      return InvalidField("input", "is missing: one of prompt, token_ids, messages");
  }
  request.raw = proto.raw();
  if (proto.has_max_tokens()) request.max_tokens = proto.max_tokens();
  const v1::Sampling& sampling = proto.sampling();
  if (sampling.has_temperature()) request.sampling.temperature = sampling.temperature();
  if (sampling.has_top_p()) request.sampling.top_p = sampling.top_p();
  if (sampling.has_top_k()) request.sampling.top_k = sampling.top_k();
  if (sampling.has_min_p()) request.sampling.min_p = sampling.min_p();
  if (sampling.has_seed()) request.seed = sampling.seed();
  if (sampling.has_presence_penalty()) request.sampling.presence_penalty = sampling.presence_penalty();
  if (sampling.has_frequency_penalty()) request.sampling.frequency_penalty = sampling.frequency_penalty();
  if (sampling.has_repetition_penalty()) request.sampling.repetition_penalty = sampling.repetition_penalty();
  request.stop.assign(proto.stop().begin(), proto.stop().end());
  return request;
}

// One call. While a message is being written, events gather in the next one; the text of a whole answer
// bounds it. Owns itself until OnDone.
class GenerateReactor : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                        public std::enable_shared_from_this<GenerateReactor> {
 public:
  void Start(Inference* inference, InferRequest request) {
    self_ = shared_from_this();
    auto call = inference->Start(std::move(request), [self = shared_from_this()](InferEvent event) {
      self->OnEvent(std::move(event));
    });
    MutexLock lock(&mutex_);
    if (cancelled_) call->Cancel();
    next_.set_id(call->id());
    call_ = std::move(call);
  }

  // Refuses the call.
  void Fail(const absl::Status& status) {
    self_ = shared_from_this();
    Finish(ToGrpc(status));
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok && call_ != nullptr) call_->Cancel();
    WriteOrFinish(ok);
  }

  void OnCancel() override {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    if (call_ != nullptr) call_->Cancel();
  }

  void OnDone() override { self_.reset(); }

 private:
  void OnEvent(InferEvent event) {
    MutexLock lock(&mutex_);
    next_.mutable_text()->append(event.text);
    next_.mutable_token_ids()->Add(event.ids.begin(), event.ids.end());
    has_next_ = true;
    if (event.finished) {
      over_ = true;
      status_ = event.status;
      next_.set_id(event.id);
      next_.set_finish_reason(event.reason == FinishReason::kStop ? v1::FINISH_REASON_STOP
                                                                  : v1::FINISH_REASON_LENGTH);
      next_.mutable_usage()->set_prompt_tokens(event.usage.prompt_tokens);
      next_.mutable_usage()->set_cached_tokens(event.usage.cached_tokens);
      next_.mutable_usage()->set_completion_tokens(event.usage.completion_tokens);
      next_.mutable_timings()->set_queue_ms(event.timings.queue_ms);
      next_.mutable_timings()->set_ttft_ms(event.timings.ttft_ms);
      next_.mutable_timings()->set_decode_ms(event.timings.decode_ms);
      next_.set_seed(event.seed);
      next_.set_model(event.model);
      if (!status_.ok()) {
        next_.clear_finish_reason();
        has_next_ = !next_.text().empty();  // text that has come is not lost with the error
      }
    }
    if (!writing_) WriteOrFinish(true);
  }

  void WriteOrFinish(bool ok) REQUIRES(mutex_) {
    if (ok && has_next_) {
      const std::string id = next_.id();
      current_ = std::exchange(next_, v1::GenerateResponse());
      next_.set_id(id);
      has_next_ = false;
      writing_ = true;
      StartWrite(&current_);
    } else if (over_ && !std::exchange(finished_, true)) {
      Finish(ToGrpc(status_));
    }
  }

  Mutex mutex_;
  v1::GenerateResponse next_ GUARDED_BY(mutex_);
  v1::GenerateResponse current_;  // being written
  bool has_next_ GUARDED_BY(mutex_) = false;
  bool writing_ GUARDED_BY(mutex_) = false;
  bool over_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
  bool cancelled_ GUARDED_BY(mutex_) = false;
  absl::Status status_ GUARDED_BY(mutex_);
  std::shared_ptr<InferCall> call_ GUARDED_BY(mutex_);
  std::shared_ptr<GenerateReactor> self_;
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
  const auto model = inference_->Model();
  if (!model.ok()) {
    reactor->Finish(ToGrpc(model.status()));
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
