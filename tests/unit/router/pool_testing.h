// Router and worker over real connections, in one process.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/rpc/rpc_server.h"
#include "expert_worker/worker.h"
#include "gtest/gtest.h"
#include "router/membership.h"
#include "router/pool_service.h"
#include "tests/contract/transport/nccl_harness.h"
#include "tests/unit/expert_worker/worker_testing.h"

namespace moepool {

// Yields until `condition` holds; false where only a hang can explain that it does not.
template <typename Condition>
bool Until(Condition condition) {
  const absl::Time limit = absl::Now() + absl::Seconds(60);
  while (!condition()) {
    if (absl::Now() > limit) return false;
    std::this_thread::yield();
  }
  return true;
}

inline std::unique_ptr<RpcServer> StartServer(uint16_t port, grpc::Service* service) {
  RpcServerOptions options;
  options.address = {"127.0.0.1", port};
  return *RpcServer::Start(options, {service});
}

class Router {
 public:
  explicit Router(const WorkerFixture& model, bool shared_memory = true, uint16_t port = 0,
                  uint8_t digest_flip = 0, std::shared_ptr<NcclQueue> nccl = nullptr) {
    MembershipOptions options;
    options.layers = model.source->Config().layers;
    options.experts = model.source->Config().experts;
    options.expert_bytes.assign(static_cast<size_t>(options.layers) * options.experts, 1000);
    const ModelDigest digest = *model.source->Digest();
    options.model_digest.assign(digest.begin(), digest.end());
    options.model_digest[0] = static_cast<char>(options.model_digest[0] ^ digest_flip);
    options.heartbeat = absl::Milliseconds(50);
    options.missed_heartbeats = 1000;
    membership = std::make_unique<Membership>(std::move(options));
    PoolServiceOptions service_options;
    service_options.heartbeat = absl::Milliseconds(50);
    service_options.shared_memory = shared_memory;
    service_options.nccl = std::move(nccl);
    service_options.transport.inline_frame_bytes = 0;  // dispatches are smaller than real ones
    service = *PoolService::Create(membership.get(), service_options);
    server = StartServer(port, service->service());
  }
  ~Router() {
    membership->Shutdown("end of test");
    server = nullptr;
    service = nullptr;
  }
  std::string address() const { return server->address().ToString(); }

  std::unique_ptr<Membership> membership;
  std::unique_ptr<PoolService> service;
  std::unique_ptr<RpcServer> server;
};

class RunningWorker {
 public:
  RunningWorker(const WorkerFixture& model, const std::string& router, TransportChoice transport,
                std::shared_ptr<NcclQueue> nccl = nullptr, int nccl_attempts = 3,
                std::function<std::optional<GpuReading>()> read_gpu = nullptr)
      : store(model.source.get(), model.backend.get(), 0),
        executor(model.backend.get(), &store, model.limits) {
    WorkerOptions options;
    options.router = router;
    options.transport = transport;
    options.max_backoff = absl::Milliseconds(200);
    options.nccl = std::move(nccl);
    options.nccl_attempts = nccl_attempts;
    options.read_gpu = std::move(read_gpu);
    worker = Worker::Create(options, *model.source->Digest(), model.backend.get(), &store, &executor,
                            [this](const WorkerStatus&) { ready.fetch_add(1); });
    thread = std::thread([this] { end = worker->Run(); });
  }
  ~RunningWorker() {
    if (thread.joinable()) {
      worker->Drain();
      thread.join();
    }
  }
  absl::Status Join() {
    thread.join();
    return end;
  }

  ExpertStore store;
  Executor executor;
  std::atomic<int> ready = 0;
  std::unique_ptr<Worker> worker;
  absl::Status end;
  std::thread thread;
};

}  // namespace moepool
