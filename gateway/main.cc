// moepool-gateway: text in, text out, for clients over HTTP and gRPC; a router does the rest.
#include <unistd.h>

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/open_files.h"
#include "common/base/signals.h"
#include "common/base/trace_log.h"
#include "common/rpc/trunk_client.h"
#include "gateway/gateway_flags.h"
#include "gateway/gateway_server.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

struct Flags {
  GatewayFlags gateway;
  std::string router = "127.0.0.1:50052";
  std::string log_level = "info";
  std::string trace;
};

int Main(int argc, char** argv) {
  CLI::App app("Serves text over HTTP and gRPC from a moepool router.", "moepool-gateway");
  Flags flags;
  AddGatewayFlags(&app, &flags.gateway);
  app.add_option("--router", flags.router, "The router's address")->capture_default_str();
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")->capture_default_str();
  app.add_option("--trace", flags.trace, kTraceFlagHelp);
  if (const std::optional<int> code = ParseFlags(&app, argc, argv); code.has_value()) return *code;

  const auto refuse = [](const absl::Status& status) {
    std::fprintf(stderr, "moepool-gateway: %s\n", std::string(status.message()).c_str());
    return 2;
  };
  LogLevel level;
  if (!ParseLogLevel(flags.log_level, &level)) {
    return refuse(absl::InvalidArgumentError("--log-level: '" + flags.log_level + "' is not a level"));
  }
  InitLog("gateway", level);
  const absl::StatusOr<GatewayOptions> options = ToGatewayOptions(flags.gateway);
  if (!options.ok()) return refuse(options.status());
  const absl::StatusOr<HostPort> router = ParseAddress(flags.router);
  if (!router.ok())
    return refuse(absl::InvalidArgumentError("--router: " + std::string(router.status().message())));

  const absl::StatusOr<std::unique_ptr<TraceSession>> trace = StartTrace(flags.trace, "gateway");
  if (!trace.ok()) {
    Log(LogLevel::kError, "cannot start", {{"error", std::string(trace.status().message())}});
    return 1;
  }
  absl::Notification drain;
  SignalWatcher signals([&] { drain.Notify(); });
  Metrics metrics;
  AddProcessInfo(&metrics, "gateway");
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
  Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.gateway.drain_timeout_s}});
  (*server)->Drain(absl::Now() + absl::Seconds(flags.gateway.drain_timeout_s));
  server->reset();
  Log(LogLevel::kInfo, "drained");
  return 0;
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  moepool::AllowOpenFiles();
  return moepool::Main(argc, argv);
}
