// `moepool serve`: gateway, router and workers in one process; with several workers over the in-process
// transport, with one without any. The default for a laptop, and for debugging.
#include <unistd.h>

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/base/config.h"
#include "common/base/log.h"
#include "common/base/signals.h"
#include "common/base/status_macros.h"
#include "common/base/trace_log.h"
#include "common/metrics/gpu_metrics.h"
#include "gateway/gateway_flags.h"
#include "gateway/gateway_server.h"
#include "nlohmann/json.hpp"
#include "router/engine_metrics.h"
#include "tools/commands.h"
#include "tools/embedded.h"

namespace moepool {
namespace {

struct Flags {
  EmbeddedFlags engine;
  GatewayFlags gateway;
  std::string trace;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const GatewayOptions options, ToGatewayOptions(flags.gateway));
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<TraceSession> trace, StartTrace(flags.trace, "serve"));
  absl::Notification drain;
  SignalWatcher signals([&] { drain.Notify(); });
  MOEPOOL_ASSIGN_OR_RETURN(const auto embedded, MakeEmbedded(flags.engine));
  Metrics metrics;
  AddProcessInfo(&metrics, "serve");
  const auto engine_metrics = std::make_shared<EngineCollector>(embedded->engine.get());
  metrics.AddSource(engine_metrics);
  const std::shared_ptr<GpuMetrics> gpu_metrics = AddGpuMetrics(embedded->gpu, &metrics);
  MOEPOOL_ASSIGN_OR_RETURN(const auto server,
                           GatewayServer::Start(options, embedded->engine.get(), &metrics));
  PrintReady({{"ready", true},
              {"process", "serve"},
              {"http_address", server->http_address().ToString()},
              {"grpc_address", server->grpc_address()->ToString()},
              {"model", embedded->source->Config().name},
              {"pid", getpid()}});
  drain.WaitForNotification();
  Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.gateway.drain_timeout_s}});
  server->Drain(absl::Now() + absl::Seconds(flags.gateway.drain_timeout_s));
  return absl::OkStatus();
}

}  // namespace

void AddServeCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("serve", "serve a model from this one process");
  AddEmbeddedFlags(command, &flags->engine);
  AddGatewayFlags(command, &flags->gateway);
  command->add_option("--trace", flags->trace, kTraceFlagHelp);
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
