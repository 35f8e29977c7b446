// moepool.v1.Inference over gRPC.
#pragma once

#include "gateway/inference.h"
#include "proto/inference.grpc.pb.h"

namespace moepool {

inline constexpr char kInferenceServiceName[] = "moepool.v1.Inference";

// `inference` outlives this.
class GenerateService : public v1::Inference::CallbackService {
 public:
  explicit GenerateService(Inference* inference) : inference_(inference) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(grpc::CallbackServerContext* context,
                                                           const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context, const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override;

 private:
  Inference* const inference_;
};

}  // namespace moepool
