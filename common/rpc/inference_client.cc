// See inference_client.h.
#include "common/rpc/inference_client.h"

#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_status.h"
#include "grpcpp/client_context.h"
#include "proto/inference.grpc.pb.h"

namespace moepool {
namespace {

void Prepare(absl::Time deadline, const InferenceClientOptions& options, grpc::ClientContext* context) {
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
  if (!options.api_key.empty()) context->AddMetadata("authorization", "Bearer " + options.api_key);
}

}  // namespace

void Cancellation::Cancel() {
  MutexLock lock(&mutex_);
  cancelled_ = true;
  if (cancel_) cancel_();
}

bool Cancellation::cancelled() {
  MutexLock lock(&mutex_);
  return cancelled_;
}

void Cancellation::Set(std::function<void()> cancel) {
  MutexLock lock(&mutex_);
  cancel_ = std::move(cancel);
  if (cancelled_ && cancel_) cancel_();
}

struct InferenceClient::Stub {
  std::unique_ptr<v1::Inference::Stub> stub;
};

InferenceClient::InferenceClient(const std::string& address, InferenceClientOptions options)
    : options_(std::move(options)), stub_(new Stub{v1::Inference::NewStub(MakeRpcChannel(address))}) {}

InferenceClient::~InferenceClient() = default;

absl::StatusOr<v1::GenerateResponse> InferenceClient::Generate(
    const v1::GenerateRequest& request, absl::Time deadline,
    const std::function<bool(const v1::GenerateResponse&)>& on_message, Cancellation* cancellation) const {
  grpc::ClientContext context;
  Prepare(deadline, options_, &context);
  const auto reader = stub_->stub->Generate(&context, request);
  if (cancellation != nullptr) cancellation->Set([&context] { context.TryCancel(); });
  v1::GenerateResponse message;
  v1::GenerateResponse last;
  while (reader->Read(&message)) {
    if (!on_message(message)) context.TryCancel();
    last = message;
  }
  const grpc::Status status = reader->Finish();
  if (cancellation != nullptr) cancellation->Set(nullptr);
  if (!status.ok()) return FromGrpc(status);
  return last;
}

absl::StatusOr<v1::GetModelResponse> InferenceClient::GetModel(absl::Time deadline) const {
  grpc::ClientContext context;
  Prepare(deadline, options_, &context);
  v1::GetModelResponse response;
  if (const grpc::Status status = stub_->stub->GetModel(&context, v1::GetModelRequest(), &response);
      !status.ok()) {
    return FromGrpc(status);
  }
  return response;
}

}  // namespace moepool
