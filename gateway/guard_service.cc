#include "gateway/guard_service.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/traceparent.h"
#include "gateway/request_id.h"
#include "gateway/retry_after.h"

namespace moepool {
namespace {

std::string Metadata(const grpc::CallbackServerContext& context, const char* name) {
  const auto it = context.client_metadata().find(name);
  return it == context.client_metadata().end() ? std::string()
                                               : std::string(it->second.data(), it->second.size());
}

}  // namespace

void RpcCaller::Sign(InferRequest* request) const {
  request->key_name = key_name;
  request->request_id = request_id;
  request->traceparent = traceparent;
  request->deadline = deadline;
}

absl::StatusOr<RpcCaller> RpcGate::Enter(grpc::CallbackServerContext* context) const {
  RpcCaller caller;
  caller.request_id = RequestId(Metadata(*context, "x-request-id"));
  context->AddInitialMetadata("x-request-id", caller.request_id);
  if (keys_ != nullptr) {
    MOEPOOL_ASSIGN_OR_RETURN(caller.key_name, keys_->Check(Metadata(*context, "authorization")));
  }
  if (std::string trace = Metadata(*context, "traceparent"); IsTraceparent(trace)) {
    caller.traceparent = std::move(trace);
  }
  caller.deadline = absl::FromChrono(context->deadline());
  return caller;
}

void AddRetryTrailers(grpc::CallbackServerContext* context, const absl::Status& status) {
  const int seconds = RetryAfterSeconds(status);
  if (seconds == 0) return;
  context->AddTrailingMetadata("retry-after", absl::StrCat(seconds));
  context->AddTrailingMetadata("grpc-retry-pushback-ms", absl::StrCat(seconds * 1000));
}

}  // namespace moepool
