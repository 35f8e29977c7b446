// See inference_client.h.
#include "common/rpc/inference_client.h"

#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_status.h"
#include "grpcpp/client_context.h"
#include "proto/inference.grpc.pb.h"

namespace moepool {
namespace {

void SetDeadline(absl::Time deadline, grpc::ClientContext* context) {
  if (deadline != absl::InfiniteFuture()) context->set_deadline(absl::ToChronoTime(deadline));
}

}  // namespace

struct InferenceClient::Stub {
  std::unique_ptr<v1::Inference::Stub> stub;
};

InferenceClient::InferenceClient(const std::string& address)
    : stub_(new Stub{v1::Inference::NewStub(MakeRpcChannel(address))}) {}

InferenceClient::~InferenceClient() = default;

absl::StatusOr<v1::GenerateResponse> InferenceClient::Generate(
    const v1::GenerateRequest& request, absl::Time deadline,
    const std::function<bool(const v1::GenerateResponse&)>& on_message) const {
  grpc::ClientContext context;
  SetDeadline(deadline, &context);
  const auto reader = stub_->stub->Generate(&context, request);
  v1::GenerateResponse message;
  v1::GenerateResponse last;
  while (reader->Read(&message)) {
    if (!on_message(message)) context.TryCancel();
    last = message;
  }
  if (const grpc::Status status = reader->Finish(); !status.ok()) return FromGrpc(status);
  return last;
}

absl::StatusOr<v1::GetModelResponse> InferenceClient::GetModel(absl::Time deadline) const {
  grpc::ClientContext context;
  SetDeadline(deadline, &context);
  v1::GetModelResponse response;
  if (const grpc::Status status = stub_->stub->GetModel(&context, v1::GetModelRequest(), &response);
      !status.ok()) {
    return FromGrpc(status);
  }
  return response;
}

}  // namespace moepool
