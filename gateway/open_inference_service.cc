#include "gateway/open_inference_service.h"

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/rpc/rpc_status.h"
#include "gateway/open_inference.h"

namespace moepool {
namespace {

using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelStreamInferResponse;

// Of one stream: so many requests, and errors not yet written, before the next request is read.
constexpr size_t kMaxRequestsOfStream = 256;

grpc::ServerUnaryReactor* Finish(grpc::CallbackServerContext* context, const absl::Status& status) {
  AddRetryTrailers(context, status);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(ToGrpc(status));
  return reactor;
}

// Checks a request and signs it with its caller.
absl::StatusOr<OpenInferRequest> Prepare(Inference* inference, const RpcCaller& caller,
                                         const ModelInferRequest& proto, bool stream) {
  MOEPOOL_ASSIGN_OR_RETURN(const auto model, inference->Model());
  MOEPOOL_RETURN_IF_ERROR(CheckModelName(*model, proto.model_name(), proto.model_version()));
  MOEPOOL_ASSIGN_OR_RETURN(OpenInferRequest read, ReadOpenInferRequest(proto, stream));
  const absl::Time deadline = std::min(read.request.deadline, caller.deadline);
  caller.Sign(&read.request);
  read.request.deadline = deadline;
  return read;
}

// What an event adds to what has gathered of its answer. Of the last event, all but the text stands.
void Merge(InferEvent event, InferEvent* gathered) {
  gathered->text += event.text;
  event.text = std::move(gathered->text);
  *gathered = std::move(event);
}

// One ModelInfer. Owns itself from Start to OnDone.
class InferReactor : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<InferReactor> {
 public:
  InferReactor(grpc::CallbackServerContext* context, ModelInferResponse* response)
      : context_(context), response_(response) {}

  void Start(Inference* inference, const ModelInferRequest& proto, absl::StatusOr<OpenInferRequest> read) {
    self_ = shared_from_this();
    if (!read.ok()) return End(read.status());
    response_->set_id(proto.id());
    response_->set_model_name(proto.model_name());
    outputs_ = std::move(read->outputs);
    auto call = inference->Start(std::move(read->request),
                                 [self = self_](InferEvent event) { self->OnEvent(std::move(event)); });
    MutexLock lock(&mutex_);
    if (cancelled_) call->Cancel();
    call_ = std::move(call);
  }
  void OnCancel() override {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    if (call_ != nullptr) call_->Cancel();
  }
  void OnDone() override {
    // Not under the mutex: this may be the last that holds it.
    const std::shared_ptr<InferReactor> self = std::move(self_);
  }

 private:
  void OnEvent(InferEvent event) {
    Merge(std::move(event), &gathered_);
    if (!gathered_.finished) return;
    if (gathered_.status.ok()) FillOpenInferResponse(gathered_, outputs_, /*in_pieces=*/false, response_);
    End(gathered_.status);
  }
  void End(const absl::Status& status) {
    AddRetryTrailers(context_, status);
    grpc::ServerUnaryReactor::Finish(ToGrpc(status));
  }

  grpc::CallbackServerContext* const context_;
  ModelInferResponse* const response_;
  std::vector<std::string> outputs_;
  InferEvent gathered_;  // touched by the request's events alone, which come one at a time
  Mutex mutex_;
  bool cancelled_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<InferCall> call_ GUARDED_BY(mutex_);
  std::shared_ptr<InferReactor> self_;
};

// One ModelStreamInfer. Requests run side by side; while a response is being written, what comes for each of
// them gathers in one. Owns itself from Start to OnDone.
class StreamInferReactor : public grpc::ServerBidiReactor<ModelInferRequest, ModelStreamInferResponse>,
                           public std::enable_shared_from_this<StreamInferReactor> {
 public:
  StreamInferReactor(grpc::CallbackServerContext* context, UnreadBudget* unread)
      : context_(context), unread_(unread) {}

  void Start(Inference* inference, absl::StatusOr<RpcCaller> caller) {
    self_ = shared_from_this();
    inference_ = inference;
    MutexLock lock(&mutex_);
    if (!caller.ok()) {
      AddRetryTrailers(context_, caller.status());
      finished_ = true;
      return this->Finish(ToGrpc(caller.status()));
    }
    caller_ = *std::move(caller);
    StartRead(&request_);
  }

  void OnReadDone(bool ok) override {
    if (ok) Take();
    MutexLock lock(&mutex_);
    reading_ = false;
    if (!ok) no_more_ = true;
    Go();
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) Leave();
    Go();
  }
  void OnCancel() override {
    MutexLock lock(&mutex_);
    Leave();
    Go();
  }
  void OnDone() override { const std::shared_ptr<StreamInferReactor> self = std::move(self_); }

 private:
  struct Request {
    std::string id;
    std::string model_name;
    std::vector<std::string> outputs;
    bool stream = true;
    std::shared_ptr<InferCall> call;
  };
  struct Waiting {
    uint64_t serial;
    InferEvent event;
  };

  // Starts what has been read.
  void Take() {
    absl::StatusOr<OpenInferRequest> read = Prepare(inference_, caller_, request_, /*stream=*/true);
    const uint64_t serial = ++serial_;
    {
      MutexLock lock(&mutex_);
      Request& request = requests_[serial];
      request.id = request_.id();
      request.model_name = request_.model_name();
      if (!read.ok()) {
        InferEvent event;
        event.finished = true;
        event.status = read.status();
        return Gather(serial, std::move(event));
      }
      request.outputs = std::move(read->outputs);
      request.stream = read->request.stream;
    }
    auto call =
        inference_->Start(std::move(read->request), [self = shared_from_this(), serial](InferEvent event) {
          MutexLock lock(&self->mutex_);
          self->Gather(serial, std::move(event));
          self->Go();
        });
    MutexLock lock(&mutex_);
    const auto it = requests_.find(serial);
    if (it == requests_.end()) return;  // over already
    if (left_) call->Cancel();
    it->second.call = std::move(call);
  }

  void Gather(uint64_t serial, InferEvent event) REQUIRES(mutex_) {
    if (!left_ && !unread_.Add(event.text.size())) {
      Log(LogLevel::kWarning, "gave up a stream whose client reads too slowly",
          {{"unread_bytes", unread_.bytes()}});
      Leave();
      context_->TryCancel();
    }
    for (Waiting& waiting : waiting_) {
      if (waiting.serial == serial) return Merge(std::move(event), &waiting.event);
    }
    waiting_.push_back({serial, std::move(event)});
  }

  // Does what can be done next: writes, reads, or ends the stream.
  void Go() REQUIRES(mutex_) {
    if (!writing_ && !left_ && Compose()) {
      writing_ = true;
      StartWrite(&response_);
    }
    if (left_) DropWritten();
    if (!reading_ && !no_more_ && !left_ && requests_.size() < kMaxRequestsOfStream) {
      reading_ = true;
      StartRead(&request_);
    }
    if (requests_.empty() && !writing_ && !reading_ && (no_more_ || left_) &&
        !std::exchange(finished_, true)) {
      this->Finish(left_ ? grpc::Status(grpc::StatusCode::CANCELLED, "the client is gone")
                         : grpc::Status::OK);
    }
  }

  // The next response, of what waits for the longest; false where nothing can be sent.
  bool Compose() REQUIRES(mutex_) {
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      const auto at = requests_.find(it->serial);
      const Request& request = at->second;
      const bool over = it->event.finished;
      if (!over && !request.stream) continue;
      response_.Clear();
      ModelInferResponse* const response = response_.mutable_infer_response();
      response->set_id(request.id);
      response->set_model_name(request.model_name);
      if (over && !it->event.status.ok()) {
        response_.set_error_message(ToMessage(it->event.status));
      } else {
        FillOpenInferResponse(it->event, request.outputs, /*in_pieces=*/true, response);
      }
      if (over) requests_.erase(at);
      unread_.Remove(it->event.text.size());
      waiting_.erase(it);
      return true;
    }
    return false;
  }

  // The protocol has no code beside the message.
  static std::string ToMessage(const absl::Status& status) {
    return absl::StatusCodeToString(status.code()) + ": " + std::string(status.message());
  }

  void Leave() REQUIRES(mutex_) {
    if (std::exchange(left_, true)) return;
    for (auto& [serial, request] : requests_) {
      if (request.call != nullptr) request.call->Cancel();
    }
  }

  // Nobody reads them.
  void DropWritten() REQUIRES(mutex_) {
    for (const Waiting& waiting : waiting_) {
      if (waiting.event.finished) requests_.erase(waiting.serial);
    }
    waiting_.clear();
    unread_.Remove(unread_.bytes());
  }

  grpc::CallbackServerContext* const context_;
  Inference* inference_ = nullptr;
  RpcCaller caller_;
  ModelInferRequest request_;  // being read
  uint64_t serial_ = 0;        // of the request read last
  Mutex mutex_;
  ModelStreamInferResponse response_ GUARDED_BY(mutex_);  // being written
  std::map<uint64_t, Request> requests_
      GUARDED_BY(mutex_);                           // of which the last response is still to be composed
  std::deque<Waiting> waiting_ GUARDED_BY(mutex_);  // of different requests
  UnreadBudget::Share unread_ GUARDED_BY(mutex_);   // of these
  bool reading_ GUARDED_BY(mutex_) = true;
  bool writing_ GUARDED_BY(mutex_) = false;
  bool no_more_ GUARDED_BY(mutex_) = false;  // requests
  bool left_ GUARDED_BY(mutex_) = false;     // the client
  bool finished_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<StreamInferReactor> self_;
};

}  // namespace

bool OpenInferenceService::Ready() const {
  return watcher_->NotReadyReason().empty() && !inference_->admission().draining();
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerLive(grpc::CallbackServerContext* context,
                                                           const inference::ServerLiveRequest*,
                                                           inference::ServerLiveResponse* response) {
  response->set_live(true);
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerReady(grpc::CallbackServerContext* context,
                                                            const inference::ServerReadyRequest*,
                                                            inference::ServerReadyResponse* response) {
  response->set_ready(Ready());
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelReady(grpc::CallbackServerContext* context,
                                                           const inference::ModelReadyRequest* request,
                                                           inference::ModelReadyResponse* response) {
  const absl::StatusOr<RpcCaller> caller = gate_->Enter(context);
  if (!caller.ok()) return Finish(context, caller.status());
  const auto model = inference_->Model();
  response->set_ready(model.ok() && Ready() &&
                      CheckModelName(**model, request->name(), request->version()).ok());
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ServerMetadata(grpc::CallbackServerContext* context,
                                                               const inference::ServerMetadataRequest*,
                                                               inference::ServerMetadataResponse* response) {
  const absl::StatusOr<RpcCaller> caller = gate_->Enter(context);
  if (!caller.ok()) return Finish(context, caller.status());
  response->set_name("moepool");
  response->set_version(kVersion);
  response->add_extensions("model_configuration");
  return Finish(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelMetadata(grpc::CallbackServerContext* context,
                                                              const inference::ModelMetadataRequest* request,
                                                              inference::ModelMetadataResponse* response) {
  return Finish(context, [&]() -> absl::Status {
    MOEPOOL_RETURN_IF_ERROR(gate_->Enter(context).status());
    MOEPOOL_ASSIGN_OR_RETURN(const auto model, inference_->Model());
    MOEPOOL_RETURN_IF_ERROR(CheckModelName(*model, request->name(), request->version()));
    FillModelMetadata(model->info, response);
    return absl::OkStatus();
  }());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelConfig(grpc::CallbackServerContext* context,
                                                            const inference::ModelConfigRequest* request,
                                                            inference::ModelConfigResponse* response) {
  return Finish(context, [&]() -> absl::Status {
    MOEPOOL_RETURN_IF_ERROR(gate_->Enter(context).status());
    MOEPOOL_ASSIGN_OR_RETURN(const auto model, inference_->Model());
    MOEPOOL_RETURN_IF_ERROR(CheckModelName(*model, request->name(), request->version()));
    FillModelConfig(model->info, response->mutable_config());
    return absl::OkStatus();
  }());
}

grpc::ServerUnaryReactor* OpenInferenceService::ModelInfer(grpc::CallbackServerContext* context,
                                                           const ModelInferRequest* request,
                                                           ModelInferResponse* response) {
  auto reactor = std::make_shared<InferReactor>(context, response);
  reactor->Start(inference_, *request, [&]() -> absl::StatusOr<OpenInferRequest> {
    MOEPOOL_ASSIGN_OR_RETURN(const RpcCaller caller, gate_->Enter(context));
    MOEPOOL_ASSIGN_OR_RETURN(OpenInferRequest read, Prepare(inference_, caller, *request, /*stream=*/false));
    if (read.request.stream) return InvalidField("stream", "is true, for which there is ModelStreamInfer");
    return read;
  }());
  return reactor.get();
}

grpc::ServerBidiReactor<ModelInferRequest, ModelStreamInferResponse>* OpenInferenceService::ModelStreamInfer(
    grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<StreamInferReactor>(context, unread_);
  reactor->Start(inference_, gate_->Enter(context));
  return reactor.get();
}

}  // namespace moepool
