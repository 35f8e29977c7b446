// moepool-router: the trunk of a model on one device, and the pool of expert workers that dial in.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "common/backend/packed_experts.h"
#include "common/backend/weight_flags.h"
#include "common/base/config.h"
#include "common/base/heap.h"
#include "common/base/log.h"
#include "common/base/open_files.h"
#include "common/base/signals.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/base/trace_log.h"
#include "common/metrics/gpu_metrics.h"
#include "common/metrics/metrics_endpoint.h"
#include "common/model/gguf_source.h"
#include "common/rpc/readiness_watcher.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/nccl_open.h"
#include "nlohmann/json.hpp"
#include "router/engine.h"
#include "router/engine_metrics.h"
#include "router/membership.h"
#include "router/pool_service.h"
#include "router/trunk_service.h"

namespace moepool {
namespace {

struct Flags {
  std::string model;
  std::string address = "127.0.0.1:50052";
  std::string metrics_address = "127.0.0.1:9101";
  bool insecure = false;
  BackendOptions backend;
  WeightFlags weights;
  std::string kv_type = "f16";
  uint64_t kv_memory_bytes = uint64_t{1} << 30;
  std::string prefix_cache = "on";
  int context_tokens = 0;
  int step_tokens = 512;
  std::string micro_batches = "auto";
  int max_running = 64;
  int max_waiting = 1024;
  int min_workers = 1;
  bool no_shared_memory = false;
  bool no_nccl = false;
  std::string shm_directory;
  double holder_timeout_s = 15;
  double dispatch_timeout_s = 10;
  double heartbeat_s = 1;
  double drain_timeout_s = 30;
  double slow_request_ms = 30'000;
  int64_t max_expert_series = kDefaultMaxExpertSeries;
  std::string log_level = "info";
  std::string trace;
};

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--model", flags->model, "GGUF file")->required();
  app->add_option("--address", flags->address, "Where gateways and workers dial in")->capture_default_str();
  app->add_option("--metrics-address", flags->metrics_address, "Where to serve /metrics")
      ->capture_default_str();
  app->add_flag("--insecure", flags->insecure, "Allow addresses that are not loopback, without encryption");
  app->add_option("--backend", flags->backend.backend, "auto, cpu or cuda")->capture_default_str();
  app->add_option("--device", flags->backend.device, "cuda: which of the machine's GPUs, counted from 0")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app->add_option("--isa", flags->backend.isa, "cpu: auto, scalar, avx2, avx512 or avx512vnni")
      ->capture_default_str();
  app->add_option("--threads", flags->backend.threads, "0: one a core")->check(CLI::Range(0, 1024));
  app->add_option(
         "--device-memory", flags->backend.device_memory_bytes,
         "Of the cuda backend: most memory of the GPU, in bytes or as 20GiB; 0: what is free, less a "
         "margin")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->capture_default_str();
  AddOffFlag(app, "--no-cuda-graphs", &flags->backend.cuda_graphs,
             "Of the cuda backend: queue every kernel of small steps anew");
  AddWeightFlags(app, &flags->weights);
  app->add_option("--kv-type", flags->kv_type, "KV cache: f16, bf16, q8_0 or f32")->capture_default_str();
  app->add_option("--kv-memory", flags->kv_memory_bytes, "Bytes for the KV cache, such as 4GiB")
      ->transform(CLI::AsSizeValue(false));
  app->add_option("--prefix-cache", flags->prefix_cache,
                  "Keep prefixes in the KV cache for later requests: on or off")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app->add_option("--context-tokens", flags->context_tokens, "Longest sequence; 0: the model's own limit")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--step-tokens", flags->step_tokens, "Rows of a step at most")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app->add_option(
         "--micro-batches", flags->micro_batches,
         "Parts in which a step's rows go through the layers: 1, 2 so that trunk and workers compute "
         "side by side, or auto, whichever is faster")
      ->check(CLI::IsMember({"auto", "1", "2"}))
      ->capture_default_str();
  app->add_option("--max-running", flags->max_running, "Sequences in the batch at most")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app->add_option("--max-waiting", flags->max_waiting, "Sequences that may wait for a place")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app->add_option("--min-workers", flags->min_workers, "Workers that the first placement waits for")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  app->add_flag("--no-shared-memory", flags->no_shared_memory, "Offer workers on this host gRPC alone");
  app->add_flag("--no-nccl", flags->no_nccl, "Offer workers no NCCL, which a router on a GPU does");
  app->add_option("--shm-dir", flags->shm_directory,
                  "Directory for the socket that shared memory is passed over, shared with workers in other "
                  "containers of this host; empty: an abstract socket")
      ->check(CLI::ExistingDirectory);
  app->add_option("--holder-timeout", flags->holder_timeout_s,
                  "Seconds that a request waits for experts whose worker was lost")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--dispatch-timeout", flags->dispatch_timeout_s,
                  "Seconds until a silent worker counts as lost")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  app->add_option("--heartbeat", flags->heartbeat_s, "Seconds between words of a worker")
      ->check(CLI::Range(0.01, 1e3))
      ->capture_default_str();
  app->add_option("--drain-timeout", flags->drain_timeout_s, "Seconds for running requests after SIGTERM")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--slow-request-ms", flags->slow_request_ms,
                  "Log each request that takes this long in the router; 0: none")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  app->add_option("--max-expert-series", flags->max_expert_series,
                  "Leave tokens by expert out of /metrics where the model has more experts in all its layers")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  app->add_option("--log-level", flags->log_level, "debug, info, warning or error")->capture_default_str();
  app->add_option("--trace", flags->trace, kTraceFlagHelp);
}

absl::StatusOr<MembershipOptions> ToMembershipOptions(const Flags& flags, const ModelSource& source) {
  const ModelConfig& config = source.Config();
  MembershipOptions options;
  options.layers = config.layers;
  options.experts = config.experts;
  MOEPOOL_ASSIGN_OR_RETURN(options.expert_bytes, PackedExpertBytes(source));
  MOEPOOL_ASSIGN_OR_RETURN(const ModelDigest digest, source.Digest());
  options.model_digest.assign(digest.begin(), digest.end());
  options.min_workers = flags.min_workers;
  options.heartbeat = absl::Seconds(flags.heartbeat_s);
  return options;
}

absl::StatusOr<EngineOptions> ToEngineOptions(const Flags& flags, RouterIdentity identity) {
  EngineOptions options;
  options.limits.token_budget = flags.step_tokens;
  options.micro_batches = flags.micro_batches == "auto" ? 0 : flags.micro_batches == "1" ? 1 : 2;
  options.limits.max_running = flags.max_running;
  options.max_waiting = flags.max_waiting;
  options.kv_bytes = flags.kv_memory_bytes;
  options.prefix_cache = flags.prefix_cache == "on";
  options.context_tokens = flags.context_tokens;
  options.no_holder_timeout = absl::Seconds(flags.holder_timeout_s);
  options.dispatch.base = absl::Seconds(flags.dispatch_timeout_s);
  options.identity = identity;
  if (flags.slow_request_ms > 0) options.slow_request = absl::Milliseconds(flags.slow_request_ms);
  MOEPOOL_ASSIGN_OR_RETURN(options.kv_type, ParseKvType(flags.kv_type));
  return options;
}

void OpenNccl(const Flags& flags, const Backend& backend, PoolServiceOptions* options) {
  if (flags.no_nccl) {
    options->no_nccl = "the router was started with --no-nccl";
    return;
  }
  absl::StatusOr<std::shared_ptr<NcclQueue>> queue = OpenNcclQueue(backend.Name(), flags.backend.device);
  if (queue.ok()) {
    options->nccl = *std::move(queue);
    return;
  }
  options->no_nccl = StrCat("the router has none: ", queue.status().message());
  if (backend.Name() == "cuda") Log(LogLevel::kInfo, "no NCCL", {{"cause", options->no_nccl}});
}

absl::Status Serve(const Flags& flags, absl::Notification* drain) {
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<TraceSession> trace, StartTrace(flags.trace, "router"));
  MOEPOOL_ASSIGN_OR_RETURN(const HostPort address,
                           ParseListenAddress("address", flags.address, flags.insecure));
  MOEPOOL_ASSIGN_OR_RETURN(const HostPort metrics_address,
                           ParseListenAddress("metrics-address", flags.metrics_address, flags.insecure));
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<ModelSource> opened, OpenGguf(flags.model));
  const std::shared_ptr<const ModelSource> source = std::move(opened);
  BackendOptions backend_options = flags.backend;
  MOEPOOL_ASSIGN_OR_RETURN(backend_options.weights, ToWeightOptions(flags.weights));
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Backend> backend, MakeBackend(backend_options));
  MOEPOOL_ASSIGN_OR_RETURN(MembershipOptions membership_options, ToMembershipOptions(flags, *source));
  const RouterIdentity identity = RandomIdentity();
  MOEPOOL_ASSIGN_OR_RETURN(EngineOptions engine_options, ToEngineOptions(flags, identity));
  const std::shared_ptr<GpuReader> gpu = OpenGpuReader(backend->Gpu().pci_bus_id);
  if (gpu != nullptr) engine_options.read_gpu = [gpu] { return gpu->Read(); };

  Membership membership(std::move(membership_options));
  PoolServiceOptions pool_options;
  pool_options.router_id = identity.router_id;
  pool_options.incarnation = identity.incarnation;
  pool_options.heartbeat = absl::Seconds(flags.heartbeat_s);
  pool_options.shared_memory = !flags.no_shared_memory;
  pool_options.shm_directory = flags.shm_directory;
  OpenNccl(flags, *backend, &pool_options);
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<PoolService> pool,
                           PoolService::Create(&membership, pool_options));
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Engine> engine,
                           Engine::Create(backend.get(), source, &membership, engine_options));
  TrunkService trunk(engine.get());
  Metrics metrics;
  AddProcessInfo(&metrics, "router");
  const auto collector = std::make_shared<EngineCollector>(engine.get(), flags.max_expert_series);
  metrics.AddSource(collector);
  const std::shared_ptr<GpuMetrics> gpu_metrics = AddGpuMetrics(gpu, &metrics);
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<MetricsEndpoint> endpoint,
                           MetricsEndpoint::Start(metrics_address, metrics));
  RpcServerOptions server_options;
  server_options.address = address;
  server_options.max_message_bytes =
      static_cast<int>(pool_options.transport.max_dispatch_frame_bytes + (1 << 20));
  server_options.health_services = {kTrunkServiceName, kExpertPoolService};
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<RpcServer> server,
                           RpcServer::Start(server_options, {pool->service(), &trunk}));
  server->SetReady(kExpertPoolService, true);  // workers may join from now on
  std::optional<ReadinessWatcher> watcher;
  watcher.emplace(server.get(), kTrunkServiceName, [&] { return membership.Routes() != nullptr; });
  PrintReady({{"ready", true},
              {"process", "router"},
              {"address", server->address().ToString()},
              {"metrics_address", endpoint->address().ToString()},
              {"model", source->Config().name},
              {"pid", getpid()}});

  drain->WaitForNotification();
  Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.drain_timeout_s}});
  watcher.reset();
  server->SetReady(kExpertPoolService, false);
  const absl::Time deadline = absl::Now() + absl::Seconds(flags.drain_timeout_s);
  engine->StopAccepting();
  engine->WaitIdle(deadline - absl::Now());
  membership.Shutdown("the router is shutting down");
  server->Shutdown(std::min(deadline, absl::Now() + absl::Seconds(5)));
  Log(LogLevel::kInfo, "drained");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Runs the trunk of a model and dispatches its experts to a pool of workers.",
               "moepool-router");
  Flags flags;
  AddFlags(&app, &flags);
  if (const std::optional<int> code = ParseFlags(&app, argc, argv); code.has_value()) return *code;
  LogLevel level;
  if (!ParseLogLevel(flags.log_level, &level)) {
    std::fprintf(stderr, "moepool-router: --log-level: '%s' is not a level\n", flags.log_level.c_str());
    return 2;
  }
  InitLog("router", level);
  absl::Notification drain;
  SignalWatcher signals([&] { drain.Notify(); });
  const absl::Status status = Serve(flags, &drain);
  if (status.ok()) return 0;
  std::fprintf(stderr, "moepool-router: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  moepool::KeepFreedMemory();
  moepool::AllowOpenFiles();
  return moepool::Main(argc, argv);
}
