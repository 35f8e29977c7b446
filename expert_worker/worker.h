// An expert worker's life: dials the router, joins, loads what it is assigned, computes, and joins again when
// the router comes back. What it holds survives the router.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/backend/backend.h"
#include "common/base/gpu_reading.h"
#include "common/model/model_source.h"
#include "common/transport/nccl_queue.h"
#include "expert_worker/executor.h"
#include "expert_worker/expert_store.h"

namespace moepool {

enum class TransportChoice { kAuto, kSharedMemory, kNccl, kGrpc };

struct WorkerOptions {
  std::string router;  // host:port
  TransportChoice transport = TransportChoice::kAuto;
  std::string shm_directory;  // shared with the router, for its UNIX socket; empty: the socket is abstract
  std::shared_ptr<NcclQueue> nccl;                 // null: none
  std::string no_nccl = "the worker has no NCCL";  // where it is null: why
  // NCCL that carries less than nccl_trial, so many times one after another, is left for gRPC for a while,
  // unless it was asked for by name.
  int nccl_attempts = 3;
  absl::Duration nccl_trial = absl::Minutes(1);
  absl::Duration nccl_pause = absl::Minutes(10);
  int load_threads = 0;  // 0: one a core
  absl::Duration drain_limit = absl::Seconds(30);
  absl::Duration min_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(5);
  // Of the GPU that the backend computes on, for the heartbeat; called by any thread. May be empty.
  std::function<std::optional<GpuReading>()> read_gpu = {};
};

struct WorkerStatus {
  bool joined = false;
  // Joined, connected, holds what it was assigned, and has been in a placement in force since it joined. It
  // may be assigned nothing, where there are more workers than experts.
  bool ready = false;
  uint64_t worker_id = 0;
  std::string transport;  // "shm", "nccl", "grpc"; empty until connected
};

class Worker {
 public:
  // Told by threads of the worker's, without its locks held: each time that a placement with it has come into
  // force, or it has a transport for it.
  using OnReady = std::function<void(const WorkerStatus& status)>;

  // All pointers outlive the worker. The source's digest is known: computing it takes long.
  static std::unique_ptr<Worker> Create(const WorkerOptions& options, const ModelDigest& digest,
                                        Backend* backend, ExpertStore* store, Executor* executor,
                                        OnReady on_ready);
  virtual ~Worker() = default;
  // Returns when drained: OK. FailedPrecondition: the router serves another model, or speaks another
  // protocol; the message has both values. Unimplemented: --transport shm or nccl cannot be had. Everything
  // else is tried again, for ever.
  virtual absl::Status Run() = 0;
  // Hands the experts over and ends Run: when the router says so, or after drain_limit. Thread-safe, once.
  virtual void Drain() = 0;
  virtual WorkerStatus status() const = 0;
};

}  // namespace moepool
