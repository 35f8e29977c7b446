// moepool-expert-worker: dials a router, holds the experts that it is told to, and computes them.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "CLI/CLI.hpp"
#include "common/backend/weight_flags.h"
#include "common/base/config.h"
#include "common/base/heap.h"
#include "common/base/log.h"
#include "common/base/open_files.h"
#include "common/base/signals.h"
#include "common/base/str.h"
#include "common/base/trace_log.h"
#include "common/metrics/gpu_metrics.h"
#include "common/metrics/metrics_endpoint.h"
#include "common/model/gguf_source.h"
#include "common/rpc/readiness_watcher.h"
#include "common/rpc/rpc_server.h"
#include "common/transport/host_id.h"
#include "common/transport/nccl_open.h"
#include "expert_worker/worker.h"
#include "expert_worker/worker_metrics.h"
#include "nlohmann/json.hpp"
#include "proto/experts.grpc.pb.h"

namespace moepool {
namespace {

constexpr int kExitBadFlags = 2;
constexpr int kExitBadModel = 3;  // unreadable, or not the router's

struct Flags {
  std::string router;
  std::string model;
  BackendOptions backend;
  WeightFlags weights;
  std::string transport = "auto";
  std::string shm_directory;
  uint64_t memory_limit_bytes = 0;
  std::string address = "127.0.0.1:0";
  std::string metrics_address = "127.0.0.1:0";
  bool insecure = false;
  double drain_timeout_s = 30;
  std::string log_level = "info";
  std::string trace;
};

void AddFlags(CLI::App* app, Flags* flags) {
  app->add_option("--router", flags->router, "The router's address, host:port")->required();
  app->add_option("--model", flags->model, "The model's GGUF file, the same as the router's")->required();
  app->add_option("--backend", flags->backend.backend, "auto, cpu or cuda")->capture_default_str();
  app->add_option("--device", flags->backend.device,
                  "Of the cuda backend: which of the machine's GPUs, counted from 0")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app->add_option("--isa", flags->backend.isa, "Of the cpu backend: auto, scalar, avx2, avx512 or avx512vnni")
      ->capture_default_str();
  app->add_option("--threads", flags->backend.threads, "Of the cpu backend; 0 is one a core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app->add_option(
         "--device-memory", flags->backend.device_memory_bytes,
         "Of the cuda backend: most memory of the GPU, in bytes or as 20GiB; 0: what is free, less a "
         "margin")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->capture_default_str();
  app->add_option(
         "--pinned-memory", flags->backend.pinned_memory_bytes,
         "Of the cuda backend: page-locked memory of the host for experts that do not fit the GPU, in "
         "bytes or as 20GiB; the most recently used of them have copies on the GPU, in a quarter of its "
         "memory")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->capture_default_str();
  AddWeightFlags(app, &flags->weights);
  app->add_option("--transport", flags->transport,
                  "auto, shm (shared memory, one host), nccl (GPU to GPU) or grpc")
      ->check(CLI::IsMember({"auto", "shm", "nccl", "grpc"}))
      ->capture_default_str();
  app->add_option("--shm-dir", flags->shm_directory,
                  "The router's --shm-dir as it is mounted here; empty: an abstract socket")
      ->check(CLI::ExistingDirectory);
  app->add_option(
         "--memory-limit", flags->memory_limit_bytes,
         "Most memory for experts, in bytes or as 12GB, 12GiB; 0 is no limit, or of the cuda backend "
         "what --device-memory lets it take")
      ->transform(CLI::AsSizeValue(/*kb_is_1000=*/true))
      ->capture_default_str();
  app->add_option("--address", flags->address, "Where to serve gRPC health and reflection")
      ->capture_default_str();
  app->add_option("--metrics-address", flags->metrics_address, "Where to serve /metrics")
      ->capture_default_str();
  app->add_flag("--insecure", flags->insecure, "Allow addresses that are not loopback, without encryption");
  app->add_option("--drain-timeout", flags->drain_timeout_s, "Seconds to hand experts over after SIGTERM")
      ->check(CLI::Range(0.0, 1e6))
      ->capture_default_str();
  app->add_option("--log-level", flags->log_level, "debug, info, warning or error")->capture_default_str();
  app->add_option("--trace", flags->trace, kTraceFlagHelp);
}

int Fail(int code, const absl::Status& status) {
  std::fprintf(stderr, "moepool-expert-worker: %s\n", std::string(status.message()).c_str());
  return code;
}

// NCCL where the transport is left open; an error where it was asked for by name and cannot be had here.
absl::Status OpenNccl(const Flags& flags, const Backend& backend, WorkerOptions* options) {
  if (options->transport != TransportChoice::kAuto && options->transport != TransportChoice::kNccl) {
    return absl::OkStatus();
  }
  absl::StatusOr<std::shared_ptr<NcclQueue>> queue = OpenNcclQueue(backend.Name(), flags.backend.device);
  if (queue.ok()) {
    options->nccl = *std::move(queue);
    return absl::OkStatus();
  }
  options->no_nccl = std::string(ToStd(queue.status().message()));
  if (options->transport == TransportChoice::kNccl) {
    return absl::InvalidArgumentError(StrCat("--transport nccl: ", options->no_nccl));
  }
  if (backend.Name() == "cuda") Log(LogLevel::kInfo, "no NCCL", {{"cause", options->no_nccl}});
  return absl::OkStatus();
}

int Serve(const Flags& flags, const HostPort& router, const HostPort& address,
          const HostPort& metrics_address) {
  const absl::StatusOr<std::unique_ptr<TraceSession>> trace = StartTrace(flags.trace, "expert worker");
  if (!trace.ok()) return Fail(1, trace.status());
  BackendOptions backend_options = flags.backend;
  const absl::StatusOr<WeightOptions> weights = ToWeightOptions(flags.weights);
  if (!weights.ok()) return Fail(kExitBadFlags, weights.status());
  backend_options.weights = *weights;
  const absl::StatusOr<std::unique_ptr<Backend>> backend = MakeBackend(backend_options);
  if (!backend.ok()) return Fail(kExitBadFlags, backend.status());
  const absl::StatusOr<std::unique_ptr<ModelSource>> source = OpenGguf(flags.model);
  if (!source.ok()) return Fail(kExitBadModel, source.status());
  Metrics metrics;
  AddProcessInfo(&metrics, "worker");
  const std::shared_ptr<GpuReader> gpu = OpenGpuReader((*backend)->Gpu().pci_bus_id);
  const std::shared_ptr<GpuMetrics> gpu_metrics = AddGpuMetrics(gpu, &metrics);
  const absl::StatusOr<std::unique_ptr<MetricsEndpoint>> endpoint =
      MetricsEndpoint::Start(metrics_address, metrics);
  if (!endpoint.ok()) return Fail(1, endpoint.status());
  const std::string service = experts::v1::ExpertPool::service_full_name();  // that the worker is ready for
  const absl::StatusOr<std::unique_ptr<RpcServer>> server =
      RpcServer::Start({.address = address, .health_services = {service}}, {});
  if (!server.ok()) return Fail(1, server.status());
  const absl::StatusOr<ModelDigest> digest = (*source)->Digest();
  if (!digest.ok()) return Fail(kExitBadModel, digest.status());

  const ModelConfig& config = (*source)->Config();
  const absl::Status reserved =
      (*backend)->ReserveExperts(config.hidden, LargestDispatch(config, kReservedRows));
  if (!reserved.ok()) return Fail(kExitBadFlags, reserved);
  ExpertStore store(source->get(), backend->get(),
                    OfferedMemory(flags.memory_limit_bytes, (*backend)->Gpu()));
  FrameLimits limits{config.hidden, config.layers, config.experts, 0};
  std::memcpy(&limits.model_digest, digest->data(), sizeof(limits.model_digest));
  Executor executor(backend->get(), &store, limits);
  WorkerOptions options;
  options.router = router.ToString();
  options.transport = flags.transport == "shm"    ? TransportChoice::kSharedMemory
                      : flags.transport == "nccl" ? TransportChoice::kNccl
                      : flags.transport == "grpc" ? TransportChoice::kGrpc
                                                  : TransportChoice::kAuto;
  if (const absl::Status status = OpenNccl(flags, **backend, &options); !status.ok()) {
    return Fail(kExitBadFlags, status);
  }
  options.shm_directory = flags.shm_directory;
  options.load_threads = flags.backend.threads;
  options.drain_limit = absl::Seconds(flags.drain_timeout_s);
  if (gpu != nullptr) options.read_gpu = [gpu] { return gpu->Read(); };
  std::atomic<bool> told = false;
  const std::unique_ptr<Worker> worker =
      Worker::Create(options, *digest, backend->get(), &store, &executor, [&](const WorkerStatus& status) {
        if (told.exchange(true)) return;
        PrintReady({{"ready", true},
                    {"process", "expert_worker"},
                    {"router", options.router},
                    {"name", ProcessName()},
                    {"worker_id", status.worker_id},
                    {"transport", status.transport},
                    {"experts", store.Held().size()},
                    {"expert_bytes", store.bytes()},
                    {"address", (*server)->address().ToString()},
                    {"metrics_address", (*endpoint)->address().ToString()},
                    {"pid", getpid()}});
      });
  absl::Status end;
  {
    SignalWatcher signals([&] {
      Log(LogLevel::kInfo, "draining", {{"timeout_s", flags.drain_timeout_s}});
      worker->Drain();
    });
    WorkerMetrics numbers(&metrics, &store, &executor, backend->get(),
                          [&] { return worker->status().joined; });
    ReadinessWatcher readiness(server->get(), service, [&] { return worker->status().ready; });
    end = worker->Run();
  }
  if (end.ok()) {
    Log(LogLevel::kInfo, "drained");
    return 0;
  }
  Log(LogLevel::kError, "refused", {{"router", options.router}, {"cause", ToStd(end.message())}});
  return end.code() == absl::StatusCode::kFailedPrecondition ? kExitBadModel : 1;
}

int Main(int argc, char** argv) {
  CLI::App app("Holds a share of a model's experts and computes them for a moepool router.",
               "moepool-expert-worker");
  Flags flags;
  AddFlags(&app, &flags);
  if (const std::optional<int> code = ParseFlags(&app, argc, argv); code.has_value()) return *code;
  LogLevel level;
  if (!ParseLogLevel(flags.log_level, &level)) {
    return Fail(kExitBadFlags,
                absl::InvalidArgumentError(StrCat("--log-level: '", flags.log_level, "' is not a level")));
  }
  const absl::StatusOr<HostPort> router = ParseAddress(flags.router);
  if (!router.ok()) {
    return Fail(kExitBadFlags, absl::InvalidArgumentError(StrCat("--router: ", router.status().message())));
  }
  const absl::StatusOr<HostPort> address = ParseListenAddress("address", flags.address, flags.insecure);
  if (!address.ok()) return Fail(kExitBadFlags, address.status());
  const absl::StatusOr<HostPort> metrics_address =
      ParseListenAddress("metrics-address", flags.metrics_address, flags.insecure);
  if (!metrics_address.ok()) return Fail(kExitBadFlags, metrics_address.status());
  InitLog("expert_worker", level);
  return Serve(flags, *router, *address, *metrics_address);
}

}  // namespace
}  // namespace moepool

int main(int argc, char** argv) {
  moepool::KeepFreedMemory();
  moepool::AllowOpenFiles();
  return moepool::Main(argc, argv);
}
