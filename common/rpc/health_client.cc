#include "common/rpc/health_client.h"

#include "absl/time/clock.h"
#include "common/base/str.h"
#include "common/rpc/rpc_channel.h"
#include "common/rpc/rpc_status.h"
#include "grpcpp/client_context.h"
#include "proto/health.grpc.pb.h"

namespace moepool {

absl::Status CheckHealth(const std::string& address, const std::string& service, absl::Duration limit) {
  namespace health = grpc::health::v1;
  const auto stub = health::Health::NewStub(MakeRpcChannel(address));
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + limit));
  context.set_wait_for_ready(false);
  health::HealthCheckRequest request;
  request.set_service(service);
  health::HealthCheckResponse response;
  const grpc::Status status = stub->Check(&context, request, &response);
  if (!status.ok()) return FromGrpc(status);
  if (response.status() == health::HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::FailedPreconditionError(
      StrCat(address, ": ", service.empty() ? "the process" : service, " is ",
             health::HealthCheckResponse::ServingStatus_Name(response.status())));
}

}  // namespace moepool
