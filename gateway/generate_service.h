// moepool.v1.Inference over gRPC.
#pragma once

#include <functional>

#include "gateway/guard_service.h"
#include "gateway/inference.h"
#include "gateway/unread_budget.h"
#include "proto/inference.grpc.pb.h"

namespace moepool {

inline constexpr char kInferenceServiceName[] = "moepool.v1.Inference";

// The arguments outlive this.
class GenerateService : public v1::Inference::CallbackService {
 public:
  GenerateService(Inference* inference, const RpcGate* gate, UnreadBudget* unread)
      : inference_(inference), gate_(gate), unread_(unread) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  enum class Cost { kNone, kPlace };
  // One call that is answered at once, by what `fill` makes of the model; while a place is held, where it
  // costs one.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, Cost cost,
                                   const std::function<absl::Status(const ServedModel&)>& fill);

  Inference* const inference_;
  const RpcGate* const gate_;
  UnreadBudget* const unread_;
};

}  // namespace moepool
