// See inference_client.h.
#include "common/rpc/inference_client.h"

#include "absl/time/clock.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_status.h"
#include "grpcpp/client_context.h"
#include "proto/inference.grpc.pb.h"

namespace moepool {

absl::StatusOr<v1::GenerateResponse> StreamGenerate(
    const std::string& address, const v1::GenerateRequest& request, absl::Duration deadline,
    const std::function<bool(const v1::GenerateResponse&)>& on_message) {
  const auto stub = v1::Inference::NewStub(MakeRpcChannel(address));
  grpc::ClientContext context;
  if (deadline != absl::InfiniteDuration()) context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse message;
  v1::GenerateResponse last;
  while (reader->Read(&message)) {
    if (!on_message(message)) context.TryCancel();
    last = message;
  }
  if (const grpc::Status status = reader->Finish(); !status.ok()) return FromGrpc(status);
  return last;
}

}  // namespace moepool
