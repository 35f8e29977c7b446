#include "gateway/gateway_server.h"

#include <utility>

#include "common/base/status_macros.h"
#include "gateway/http/openai_error.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<GatewayServer>> GatewayServer::Start(const GatewayOptions& options,
                                                                    Trunk* trunk, Metrics* metrics) {
  std::unique_ptr<GatewayServer> server(new GatewayServer);
  server->metrics_ = std::make_unique<GatewayMetrics>(metrics);
  server->watcher_ = std::make_unique<ModelWatcher>(
      trunk, options.model_factory, options.watcher, [server = server.get()](bool ready) {
        MutexLock lock(&server->mutex_);
        server->ready_ = ready;
        if (server->health_ != nullptr) {
          server->health_->SetReady(kInferenceServiceName, ready);
        }
      });
  server->inference_ =
      std::make_unique<Inference>(trunk, server->watcher_.get(), server->metrics_.get(), options.inference);
  if (options.grpc_address.has_value()) {
    server->service_ = std::make_unique<GenerateService>(server->inference_.get());
    MOEPOOL_ASSIGN_OR_RETURN(
        server->rpc_, RpcServer::Start({.address = *options.grpc_address,
                                        .max_message_bytes = static_cast<int>(options.http.max_body_bytes),
                                        .health_services = {kInferenceServiceName}},
                                       {server->service_.get()}));
    MutexLock lock(&server->mutex_);
    server->health_ = server->rpc_.get();
    server->health_->SetReady(kInferenceServiceName, server->ready_);
  }
  server->api_ =
      std::make_unique<HttpApi>(server->inference_.get(), server->watcher_.get(), metrics, options.api);
  MOEPOOL_ASSIGN_OR_RETURN(
      server->http_,
      HttpServer::Start(
          options.http,
          [api = server->api_.get()](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
            api->Handle(std::move(request), std::move(responder));
          },
          OpenAiErrorBody));
  return server;
}

GatewayServer::~GatewayServer() {
  Drain(absl::Now());
  {
    // The watcher may still report to a health service that is about to go.
    MutexLock lock(&mutex_);
    health_ = nullptr;
  }
}

void GatewayServer::Drain(absl::Time deadline) {
  if (inference_ == nullptr) return;
  inference_->admission().Drain();
  if (http_ != nullptr) http_->Drain(deadline);
  if (rpc_ != nullptr) rpc_->Shutdown(deadline);
  inference_->Shutdown();
}

std::optional<HostPort> GatewayServer::grpc_address() const {
  if (rpc_ == nullptr) return std::nullopt;
  return rpc_->address();
}

}  // namespace moepool
