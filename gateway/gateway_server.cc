#include "gateway/gateway_server.h"

#include <utility>

#include "common/base/status_macros.h"
#include "gateway/http/openai_error.h"

namespace moepool {
namespace {

constexpr const char* kServices[] = {kInferenceServiceName, kOpenInferenceServiceName};
constexpr absl::Duration kMaxRpcIdle = absl::Minutes(15);

// What the admission holds, at each scrape.
class LoadCollector : public prometheus::Collectable {
 public:
  explicit LoadCollector(const Admission* admission) : admission_(admission) {}
  std::vector<prometheus::MetricFamily> Collect() const override {
    prometheus::MetricFamily family;
    family.name = "moepool_admission_queue_tokens";
    family.help = "Tokens of requests in flight: their prompts, and their answers at their longest.";
    family.type = prometheus::MetricType::Gauge;
    family.metric.emplace_back().gauge.value = static_cast<double>(admission_->load().tokens);
    return {family};
  }

 private:
  const Admission* const admission_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GatewayServer>> GatewayServer::Start(const GatewayOptions& options,
                                                                    Trunk* trunk, Metrics* metrics) {
  std::unique_ptr<GatewayServer> server(new GatewayServer);
  server->metrics_ = std::make_unique<GatewayMetrics>(metrics);
  server->watcher_ = std::make_unique<ModelWatcher>(trunk, options.model_factory, options.watcher,
                                                    [server = server.get()](bool ready) {
                                                      MutexLock lock(&server->mutex_);
                                                      server->ready_ = ready;
                                                      server->ShowReady();
                                                    });
  server->inference_ =
      std::make_unique<Inference>(trunk, server->watcher_.get(), server->metrics_.get(), options.inference);
  server->load_ = std::make_shared<LoadCollector>(&server->inference_->admission());
  metrics->AddSource(server->load_);
  server->keys_ = options.keys;
  server->unread_ = std::make_unique<UnreadBudget>(options.unread);
  if (options.grpc_address.has_value()) MOEPOOL_RETURN_IF_ERROR(server->StartRpc(options));
  server->api_ =
      std::make_unique<HttpApi>(server->inference_.get(), server->watcher_.get(), metrics, options.api);
  server->http_gate_ =
      std::make_unique<HttpGate>(HttpGateOptions{.keys = server->keys_.get(),
                                                 .open_metrics = options.open_metrics,
                                                 .cors_origins = options.cors_origins,
                                                 .check_host = options.http.address.IsLoopback(),
                                                 .allowed_hosts = options.allowed_hosts});
  HttpServerOptions http = options.http;
  http.unread = server->unread_.get();
  http.gate = [gate = server->http_gate_.get()](HttpRequest* request) { return gate->Check(request); };
  http.add_headers = [gate = server->http_gate_.get()](const HttpRequest& request) {
    return gate->AnswerHeaders(request);
  };
  server->http_counts_ = std::make_unique<HttpCounts>(metrics, HttpApi::Paths());
  http.on_answer = [counts = server->http_counts_.get()](const HttpRequest& request, int status) {
    counts->Count(request, status);
  };
  MOEPOOL_ASSIGN_OR_RETURN(
      server->http_,
      HttpServer::Start(
          http,
          [api = server->api_.get()](HttpRequest request, std::shared_ptr<HttpResponder> responder) {
            api->Handle(std::move(request), std::move(responder));
          },
          OpenAiErrorBody));
  return server;
}

absl::Status GatewayServer::StartRpc(const GatewayOptions& options) {
  rpc_gate_ = std::make_unique<RpcGate>(keys_.get());
  generate_service_ = std::make_unique<GenerateService>(inference_.get(), rpc_gate_.get(), unread_.get());
  open_inference_service_ = std::make_unique<OpenInferenceService>(inference_.get(), watcher_.get(),
                                                                   rpc_gate_.get(), unread_.get());
  MOEPOOL_ASSIGN_OR_RETURN(
      rpc_, RpcServer::Start({.address = *options.grpc_address,
                              .max_message_bytes = static_cast<int>(options.http.max_body_bytes),
                              .max_streams = options.max_streams,
                              .max_idle = kMaxRpcIdle,
                              .health_services = {std::begin(kServices), std::end(kServices)}},
                             {generate_service_.get(), open_inference_service_.get()}));
  MutexLock lock(&mutex_);
  health_ = rpc_.get();
  ShowReady();
  return absl::OkStatus();
}

void GatewayServer::ShowReady() {
  if (health_ == nullptr) return;
  for (const char* service : kServices) health_->SetReady(service, ready_);
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
