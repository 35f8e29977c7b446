// The whole gateway over any Trunk: a router far away (moepool-gateway), or an engine in this process
// (moepool serve).
#pragma once

#include <memory>
#include <optional>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/config.h"
#include "common/metrics/metrics.h"
#include "common/rpc/rpc_server.h"
#include "gateway/auth.h"
#include "gateway/generate_service.h"
#include "gateway/guard_service.h"
#include "gateway/http/http_api.h"
#include "gateway/http/http_counts.h"
#include "gateway/http/http_gate.h"
#include "gateway/http/http_server.h"
#include "gateway/inference.h"
#include "gateway/model_watcher.h"
#include "gateway/open_inference_service.h"
#include "gateway/unread_budget.h"

namespace moepool {

struct GatewayOptions {
  HttpServerOptions http;                // http.address is where to listen
  std::optional<HostPort> grpc_address;  // none: no gRPC
  std::shared_ptr<ApiKeys> keys;         // none: everyone may call
  bool open_metrics = false;             // this and the next two as HttpGateOptions has them
  std::vector<std::string> cors_origins;
  std::vector<std::string> allowed_hosts;
  int max_streams = 1024;  // calls at once on one gRPC connection
  UnreadLimits unread;     // over HTTP and gRPC together
  HttpApiOptions api;
  InferenceOptions inference;
  ModelWatcherOptions watcher;
  ModelFactory model_factory = [](ModelInfo info) { return LoadServedModel(std::move(info)); };
};

// Thread-safe.
class GatewayServer {
 public:
  // Listens from its return on; /ready and the health service say when the trunk can serve. `trunk` and
  // `metrics` outlive this. Unavailable names an address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<GatewayServer>> Start(const GatewayOptions& options, Trunk* trunk,
                                                              Metrics* metrics);
  // Cancels what still runs.
  ~GatewayServer();

  // Takes no more requests, lets those that run finish until `deadline`, then cancels them.
  void Drain(absl::Time deadline);
  const HostPort& http_address() const { return http_->address(); }
  std::optional<HostPort> grpc_address() const;

 private:
  GatewayServer() = default;
  absl::Status StartRpc(const GatewayOptions& options);
  void ShowReady() REQUIRES(mutex_);  // in what grpc.health.v1 answers

  // In order of construction: each uses those before it.
  std::unique_ptr<GatewayMetrics> metrics_;
  Mutex mutex_;
  bool ready_ GUARDED_BY(mutex_) = false;
  RpcServer* health_ GUARDED_BY(mutex_) = nullptr;
  std::unique_ptr<ModelWatcher> watcher_;
  std::unique_ptr<Inference> inference_;
  std::shared_ptr<ApiKeys> keys_;
  std::unique_ptr<RpcGate> rpc_gate_;
  std::unique_ptr<UnreadBudget> unread_;
  std::unique_ptr<GenerateService> generate_service_;
  std::unique_ptr<OpenInferenceService> open_inference_service_;
  std::unique_ptr<RpcServer> rpc_;
  std::shared_ptr<prometheus::Collectable> load_;
  std::unique_ptr<HttpGate> http_gate_;
  std::unique_ptr<HttpCounts> http_counts_;
  std::unique_ptr<HttpApi> api_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace moepool
