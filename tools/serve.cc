// `moepool serve`: gateway, router and workers in one process, over the in-process transport. The default for
// a laptop, and for debugging.
#include <unistd.h>

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/signals.h"
#include "common/base/status_macros.h"
#include "common/base/trace_log.h"
#include "gateway/gateway_server.h"
#include "nlohmann/json.hpp"
#include "router/engine_metrics.h"
#include "tools/commands.h"
#include "tools/embedded.h"

namespace moepool {
namespace {

struct Flags {
  EmbeddedFlags engine;
  std::string http_address = "127.0.0.1:8000";
  std::string grpc_address = "127.0.0.1:50051";
  bool insecure = false;
  int max_requests = 256;
  double drain_timeout_seconds = 30;
  std::string trace;
};

absl::Status Run(const Flags& flags) {
  GatewayOptions options;
  MOEPOOL_ASSIGN_OR_RETURN(options.http.address,
                           ParseListenAddress("http-address", flags.http_address, flags.insecure));
  MOEPOOL_ASSIGN_OR_RETURN(options.grpc_address,
                           ParseListenAddress("grpc-address", flags.grpc_address, flags.insecure));
  options.inference.max_requests = flags.max_requests;

  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<TraceSession> trace, StartTrace(flags.trace, "serve"));
  absl::Notification drain;
  SignalWatcher signals([&] { drain.Notify(); });
  MOEPOOL_ASSIGN_OR_RETURN(const auto embedded, MakeEmbedded(flags.engine));
  Metrics metrics;
  AddBuildInfo(&metrics, "serve");
  const auto engine_metrics = std::make_shared<EngineCollector>(embedded->engine.get());
  metrics.AddSource(engine_metrics);
  MOEPOOL_ASSIGN_OR_RETURN(const auto server,
                           GatewayServer::Start(options, embedded->engine.get(), &metrics));
  PrintReady({{"ready", true},
              {"process", "serve"},
              {"http_address", server->http_address().ToString()},
              {"grpc_address", server->grpc_address()->ToString()},
              {"model", embedded->source->Config().name},
              {"pid", getpid()}});
  drain.WaitForNotification();
  Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.drain_timeout_seconds}});
  server->Drain(absl::Now() + absl::Seconds(flags.drain_timeout_seconds));
  return absl::OkStatus();
}

}  // namespace

void AddServeCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("serve", "serve a model from this one process");
  AddEmbeddedFlags(command, &flags->engine);
  command->add_option("--http-address", flags->http_address, "where to serve HTTP")->capture_default_str();
  command->add_option("--grpc-address", flags->grpc_address, "where to serve gRPC")->capture_default_str();
  command->add_flag("--insecure", flags->insecure,
                    "allow addresses that are not loopback, without encryption");
  command->add_option("--max-requests", flags->max_requests, "requests in flight")
      ->check(CLI::Range(1, 1'000'000));
  command
      ->add_option("--drain-timeout", flags->drain_timeout_seconds,
                   "seconds for running requests after SIGTERM")
      ->check(CLI::NonNegativeNumber);
  command->add_option("--trace", flags->trace, kTraceFlagHelp);
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
