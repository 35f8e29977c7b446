// inference.GRPCInferenceService: KServe's open inference protocol, and what Triton's clients call besides.
#pragma once

#include "gateway/guard_service.h"
#include "gateway/inference.h"
#include "gateway/model_watcher.h"
#include "gateway/unread_budget.h"
#include "proto/open_inference.grpc.pb.h"

namespace moepool {

inline constexpr char kOpenInferenceServiceName[] = "inference.GRPCInferenceService";

// All arguments outlive this.
class OpenInferenceService : public inference::GRPCInferenceService::CallbackService {
 public:
  OpenInferenceService(Inference* inference, ModelWatcher* watcher, const RpcGate* gate, UnreadBudget* unread)
      : inference_(inference), watcher_(watcher), gate_(gate), unread_(unread) {}

  grpc::ServerUnaryReactor* ServerLive(grpc::CallbackServerContext* context,
                                       const inference::ServerLiveRequest* request,
                                       inference::ServerLiveResponse* response) override;
  grpc::ServerUnaryReactor* ServerReady(grpc::CallbackServerContext* context,
                                        const inference::ServerReadyRequest* request,
                                        inference::ServerReadyResponse* response) override;
  grpc::ServerUnaryReactor* ModelReady(grpc::CallbackServerContext* context,
                                       const inference::ModelReadyRequest* request,
                                       inference::ModelReadyResponse* response) override;
  grpc::ServerUnaryReactor* ServerMetadata(grpc::CallbackServerContext* context,
                                           const inference::ServerMetadataRequest* request,
                                           inference::ServerMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelMetadata(grpc::CallbackServerContext* context,
                                          const inference::ModelMetadataRequest* request,
                                          inference::ModelMetadataResponse* response) override;
  grpc::ServerUnaryReactor* ModelConfig(grpc::CallbackServerContext* context,
                                        const inference::ModelConfigRequest* request,
                                        inference::ModelConfigResponse* response) override;
  grpc::ServerUnaryReactor* ModelInfer(grpc::CallbackServerContext* context,
                                       const inference::ModelInferRequest* request,
                                       inference::ModelInferResponse* response) override;
  grpc::ServerBidiReactor<inference::ModelInferRequest, inference::ModelStreamInferResponse>*
  ModelStreamInfer(grpc::CallbackServerContext* context) override;

 private:
  bool Ready() const;

  Inference* const inference_;
  ModelWatcher* const watcher_;
  const RpcGate* const gate_;
  UnreadBudget* const unread_;
};

}  // namespace moepool
