#include "gateway/generate_service.h"

#include <algorithm>
#include <deque>
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/rpc/rpc_status.h"
#include "common/rpc/stream_reactor.h"
#include "gateway/generate_convert.h"

namespace moepool {
namespace {

// Of one message, about; clients take 4 MiB unless told otherwise.
constexpr size_t kMaxMessageBytes = 1 << 20;

// One call. While a message is being written, events gather in one message an answer, or in several where one
// would be too large.
class GenerateReactor : public StreamReactor<v1::GenerateResponse> {
 public:
  GenerateReactor(grpc::CallbackServerContext* context, UnreadBudget* unread)
      : context_(context), unread_(unread) {}

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
    EndCall(status);
  }

 private:
  struct Gathered {
    v1::GenerateResponse message;
    size_t bytes = 0;
  };

  void OnEvent(InferEvent event) {
    MutexLock lock(&mutex_);
    if (event.finished) id_ = event.id;
    // Text that has come is not lost with an error.
    if ((!event.finished || event.status.ok()) && !cancelled_) Gather(event);
    if (event.finished) return EndCall(event.status);
    Flush();
  }

  void EndCall(const absl::Status& status) REQUIRES(mutex_) {
    AddRetryTrailers(context_, status);
    End(status);
  }

  void Gather(const InferEvent& event) REQUIRES(mutex_) {
    const size_t bytes = UnreadBytes(event);
    if (!unread_.Add(bytes)) return GiveUp();
    const auto last = std::find_if(gathered_.rbegin(), gathered_.rend(), [&](const Gathered& gathered) {
      return gathered.message.index() == event.index;
    });
    const bool fits = last != gathered_.rend() && last->bytes + bytes <= kMaxMessageBytes;
    // An answer keeps its place, so that none waits behind another for ever; the last event is the last.
    if (fits && !event.finished) {
      AddToProto(event, &last->message);
      last->bytes += bytes;
      return;
    }
    Gathered gathered;
    if (fits) {
      gathered = std::move(*last);
      gathered_.erase(std::next(last).base());
    }
    AddToProto(event, &gathered.message);
    gathered.bytes += bytes;
    gathered_.push_back(std::move(gathered));
  }

  // The client does not read, so that no status would reach it either.
  void GiveUp() REQUIRES(mutex_) {
    Log(LogLevel::kWarning, "gave up a call whose client reads too slowly",
        {{"id", id_}, {"unread_bytes", unread_.bytes()}});
    gathered_.clear();
    unread_.Remove(unread_.bytes());
    OnLeft();
    context_->TryCancel();
  }

  bool Take() REQUIRES(mutex_) override {
    if (gathered_.empty()) return false;
    current_ = std::move(gathered_.front().message);
    unread_.Remove(gathered_.front().bytes);
    gathered_.pop_front();
    current_.set_id(id_);
    return true;
  }

  void OnLeft() REQUIRES(mutex_) override {
    cancelled_ = true;
    if (call_ != nullptr) call_->Cancel();
  }

  grpc::CallbackServerContext* const context_;
  std::string id_ GUARDED_BY(mutex_);
  std::deque<Gathered> gathered_ GUARDED_BY(mutex_);  // in each answer's order
  UnreadBudget::Share unread_ GUARDED_BY(mutex_);     // of what has gathered
  bool cancelled_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<InferCall> call_ GUARDED_BY(mutex_);
};

}  // namespace

grpc::ServerWriteReactor<v1::GenerateResponse>* GenerateService::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  auto reactor = std::make_shared<GenerateReactor>(context, unread_);
  const absl::StatusOr<RpcCaller> caller = gate_->Enter(context);
  absl::StatusOr<InferRequest> parsed = caller.ok() ? FromProto(*request) : caller.status();
  if (!parsed.ok()) {
    reactor->Fail(parsed.status());
    return reactor.get();
  }
  caller->Sign(&*parsed);
  reactor->Start(inference_, *std::move(parsed));
  return reactor.get();
}

grpc::ServerUnaryReactor* GenerateService::Answer(
    grpc::CallbackServerContext* context, Cost cost,
    const std::function<absl::Status(const ServedModel&)>& fill) {
  const absl::Status status = [&]() -> absl::Status {
    MOEPOOL_RETURN_IF_ERROR(gate_->Enter(context).status());
    std::unique_ptr<Admission::Ticket> ticket;
    if (cost == Cost::kPlace) {
      MOEPOOL_ASSIGN_OR_RETURN(ticket, inference_->admission().Admit());
    }
    MOEPOOL_ASSIGN_OR_RETURN(const auto model, inference_->Model());
    return fill(*model);
  }();
  AddRetryTrailers(context, status);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

grpc::ServerUnaryReactor* GenerateService::Tokenize(grpc::CallbackServerContext* context,
                                                    const v1::TokenizeRequest* request,
                                                    v1::TokenizeResponse* response) {
  return Answer(context, Cost::kPlace, [&](const ServedModel& model) -> absl::Status {
    MOEPOOL_ASSIGN_OR_RETURN(const auto ids, EncodeText(model, request->text(), request->parse_special()));
    response->mutable_ids()->Add(ids.begin(), ids.end());
    for (const int32_t id : ids) response->add_pieces(model.tokenizer->Bytes(id, /*special=*/true));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GenerateService::Detokenize(grpc::CallbackServerContext* context,
                                                      const v1::DetokenizeRequest* request,
                                                      v1::DetokenizeResponse* response) {
  return Answer(context, Cost::kPlace, [&](const ServedModel& model) -> absl::Status {
    const bool special = !request->has_special() || request->special();
    MOEPOOL_ASSIGN_OR_RETURN(
        *response->mutable_text(),
        DecodeIds(model, {request->ids().data(), static_cast<size_t>(request->ids_size())}, special));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* GenerateService::GetModel(grpc::CallbackServerContext* context,
                                                    const v1::GetModelRequest*,
                                                    v1::GetModelResponse* response) {
  return Answer(context, Cost::kNone, [&](const ServedModel& model) {
    const ModelInfo& info = model.info;
    response->set_name(info.name);
    response->set_family(info.family);
    response->set_digest(std::string(info.digest.begin(), info.digest.end()));
    response->set_context_tokens(info.context_tokens);
    response->set_vocab_size(info.vocab_size);
    response->set_layers(info.layers);
    response->set_experts(info.experts);
    response->set_experts_per_token(info.experts_per_token);
    response->set_dense(info.dense);
    return absl::OkStatus();
  });
}

}  // namespace moepool
