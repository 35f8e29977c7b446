// What the gateway's gRPC services share: who calls, and how an error is told. Every method begins with
// Enter, but for those that health checks call.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gateway/auth.h"
#include "gateway/infer_request.h"
#include "grpcpp/server_context.h"

namespace moepool {

// Of a call, from its metadata.
struct RpcCaller {
  std::string key_name;     // empty: no key is asked for
  std::string request_id;   // the client's x-request-id where that is sound, else made
  std::string traceparent;  // valid, or empty
  absl::Time deadline = absl::InfiniteFuture();

  void Sign(InferRequest* request) const;
};

// Thread-safe.
class RpcGate {
 public:
  // `keys` outlives the gate; none: everyone may call.
  explicit RpcGate(ApiKeys* keys) : keys_(keys) {}
  // Unauthenticated where the metadata `authorization` holds no key of ours. Answers with x-request-id.
  absl::StatusOr<RpcCaller> Enter(grpc::CallbackServerContext* context) const;

 private:
  ApiKeys* const keys_;
};

// Before a call is finished with `status`. Where it may come back the trailers say when: retry-after in
// seconds, and grpc-retry-pushback-ms, which gRPC's own retries obey.
void AddRetryTrailers(grpc::CallbackServerContext* context, const absl::Status& status);

}  // namespace moepool
