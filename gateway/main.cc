// moepool-gateway: text in, text out, for clients over HTTP and gRPC; a router does the rest.
#include <unistd.h>

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/signals.h"
#include "common/base/status_macros.h"
#include "common/base/trace_log.h"
#include "common/rpc/trunk_client.h"
#include "gateway/gateway_server.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

struct Flags {
  std::string http_address = "127.0.0.1:8000";
  std::string grpc_address = "127.0.0.1:50051";
  std::string router = "127.0.0.1:50052";
  bool insecure = false;
  int max_requests = 256;
  int max_connections = 512;
  uint64_t max_body_bytes = 8 << 20;
  double request_timeout_s = 600;
  double keepalive_interval_s = 10;
  double drain_timeout_s = 30;
  std::string log_level = "info";
  std::string trace;
};

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--http-address", flags->http_address, "Where to serve HTTP")->capture_default_str();
  app->add_option("--grpc-address", flags->grpc_address, "Where to serve gRPC")->capture_default_str();
  app->add_option("--router", flags->router, "The router's address")->capture_default_str();
  app->add_flag("--insecure", flags->insecure, "Allow addresses that are not loopback, without encryption");
  app->add_option("--max-requests", flags->max_requests, "Requests in flight; more are told to come back")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app->add_option("--max-connections", flags->max_connections, "HTTP connections")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app->add_option("--max-body-bytes", flags->max_body_bytes, "Largest body of a request")
      ->check(CLI::Range(1024, 1 << 30))
      ->capture_default_str();
  app->add_option("--request-timeout", flags->request_timeout_s, "Seconds that a request may take")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app->add_option("--keepalive-interval", flags->keepalive_interval_s,
                  "Seconds between comments on a silent stream")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app->add_option("--drain-timeout", flags->drain_timeout_s, "Seconds for running requests after SIGTERM")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--log-level", flags->log_level, "debug, info, warning or error")->capture_default_str();
  app->add_option("--trace", flags->trace, kTraceFlagHelp);
}

absl::StatusOr<GatewayOptions> ToOptions(const Flags& flags) {
  GatewayOptions options;
  MOEPOOL_ASSIGN_OR_RETURN(options.http.address,
                           ParseListenAddress("http-address", flags.http_address, flags.insecure));
  MOEPOOL_ASSIGN_OR_RETURN(options.grpc_address,
                           ParseListenAddress("grpc-address", flags.grpc_address, flags.insecure));
  options.http.max_connections = flags.max_connections;
  options.http.max_body_bytes = flags.max_body_bytes;
  options.api.keepalive_interval = absl::Seconds(flags.keepalive_interval_s);
  options.inference.max_requests = flags.max_requests;
  options.inference.request_timeout = absl::Seconds(flags.request_timeout_s);
  return options;
}

int Main(int argc, char** argv) {
  CLI::App app("Serves text over HTTP and gRPC from a moepool router.", "moepool-gateway");
  Flags flags;
  AddFlags(&app, &flags);
  if (const std::optional<int> code = ParseFlags(&app, argc, argv); code.has_value()) return *code;

  const auto refuse = [](const absl::Status& status) {
    std::fprintf(stderr, "moepool-gateway: %s\n", std::string(status.message()).c_str());
    return 2;
  };
  LogLevel level;
  if (!ParseLogLevel(flags.log_level, &level)) {
    return refuse(absl::InvalidArgumentError("--log-level: '" + flags.log_level + "' is not a level"));
  }
  const absl::StatusOr<GatewayOptions> options = ToOptions(flags);
  if (!options.ok()) return refuse(options.status());
  const absl::StatusOr<HostPort> router = ParseAddress(flags.router);
  if (!router.ok())
    return refuse(absl::InvalidArgumentError("--router: " + std::string(router.status().message())));
  InitLog("gateway", level);

  const absl::StatusOr<std::unique_ptr<TraceSession>> trace = StartTrace(flags.trace, "gateway");
  if (!trace.ok()) {
    Log(LogLevel::kError, "cannot start", {{"error", std::string(trace.status().message())}});
    return 1;
  }
  absl::Notification drain;
  SignalWatcher signals([&] { drain.Notify(); });
  Metrics metrics;
  GrpcTrunk trunk(router->ToString());
  absl::StatusOr<std::unique_ptr<GatewayServer>> server = GatewayServer::Start(*options, &trunk, &metrics);
  if (!server.ok()) {
    Log(LogLevel::kError, "cannot start", {{"error", std::string(server.status().message())}});
    return 1;
  }
  PrintReady({{"ready", true},
              {"process", "gateway"},
              {"http_address", (*server)->http_address().ToString()},
              {"grpc_address", (*server)->grpc_address()->ToString()},
              {"router", router->ToString()},
              {"pid", getpid()}});
  drain.WaitForNotification();
  Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.drain_timeout_s}});
  (*server)->Drain(absl::Now() + absl::Seconds(flags.drain_timeout_s));
  server->reset();
  Log(LogLevel::kInfo, "drained");
  return 0;
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) { return moepool::Main(argc, argv); }
