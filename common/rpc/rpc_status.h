// absl::Status to gRPC and back. The two share their codes, and a message passes unchanged.
#pragma once

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

namespace moepool {

grpc::Status ToGrpc(const absl::Status& status);
absl::Status FromGrpc(const grpc::Status& status);

}  // namespace moepool
