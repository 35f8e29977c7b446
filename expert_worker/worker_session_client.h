// One membership of a worker: its control stream and its exchange, from Hello until either ends.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/transport/grpc_transport.h"
#include "common/transport/nccl_transport.h"
#include "common/transport/shared_memory.h"
#include "expert_worker/assignment_loader.h"
#include "expert_worker/worker.h"
#include "grpcpp/client_context.h"
#include "proto/experts.grpc.pb.h"

namespace moepool {

inline constexpr int kExchangeMessageBytes = static_cast<int>(kMaxDispatchFrameBytes) + 64;

struct SessionChannels {
  std::shared_ptr<grpc::Channel> control;
  std::shared_ptr<grpc::Channel> exchange;
};

experts::v1::Hello MakeHello(const WorkerOptions& options, const ModelDigest& digest, const Backend& backend,
                             const ExpertStore& store);

// Run is called once; the other methods are thread-safe, before, during and after it.
class WorkerSession {
 public:
  WorkerSession(const WorkerOptions& options, const SessionChannels& channels, experts::v1::Hello hello,
                ExpertStore* store, Executor* executor, AssignmentLoader* loader, Worker::OnReady on_ready);

  // Until the membership ends, and why: the router's refusal, the loss of a connection, or its Goodbye.
  absl::Status Run();
  // What the loader says of an assignment.
  void Loaded(uint64_t epoch, const absl::Status& status);
  // Says Leaving; Run ends at the router's Goodbye, or after drain_limit.
  void Drain();

  bool welcomed() const;
  // When NCCL began to carry; InfiniteFuture where it never did.
  absl::Time nccl_since() const;
  WorkerStatus status() const;

 private:
  using Stream = grpc::ClientReaderWriter<experts::v1::WorkerMessage, experts::v1::RouterMessage>;

  bool Write(const experts::v1::WorkerMessage& message);
  // False where the membership is over.
  bool Handle(const experts::v1::RouterMessage& message);
  void Start(const experts::v1::Welcome& welcome);
  void Heartbeats(absl::Duration period);
  experts::v1::WorkerMessage Stats() const;
  void ServeExchange(const experts::v1::Welcome& welcome);
  absl::Status ServeSharedMemory(const experts::v1::Welcome& welcome, bool* connected);
  absl::Status ServeNccl(const experts::v1::Welcome& welcome, bool* connected);
  // That `transport` could not be had.
  void Failed(std::string_view transport, const absl::Status& cause);
  absl::Status ServeGrpc(const experts::v1::Welcome& welcome);
  void Connected(const std::string& transport);
  bool Ready() const REQUIRES(mutex_) {
    return !status_.transport.empty() && in_force_epoch_ != 0 && loaded_epoch_ == assigned_epoch_;
  }
  // After any change of transport, assignment, loading or release.
  void TellIfReady();
  // Ends Run with `cause`, unless it has one.
  void End(const absl::Status& cause);

  const WorkerOptions options_;
  const SessionChannels channels_;
  const experts::v1::Hello hello_;
  ExpertStore* const store_;
  Executor* const executor_;
  AssignmentLoader* const loader_;
  const Worker::OnReady on_ready_;

  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;  // set before any thread starts
  Mutex write_mutex_;               // one writer at a time; taken alone

  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status cause_ GUARDED_BY(mutex_);
  bool ended_ GUARDED_BY(mutex_) = false;
  bool welcomed_ GUARDED_BY(mutex_) = false;
  absl::Time drain_deadline_ GUARDED_BY(mutex_) = absl::InfiniteFuture();
  bool told_leaving_ GUARDED_BY(mutex_) = false;
  // Epochs begin with 1; 0: none.
  uint64_t assigned_epoch_ GUARDED_BY(mutex_) = 0;
  uint64_t loaded_epoch_ GUARDED_BY(mutex_) = 0;
  bool released_ GUARDED_BY(mutex_) = false;  // since the latest Assign
  uint64_t in_force_epoch_ GUARDED_BY(mutex_) = 0;
  uint64_t told_epoch_ GUARDED_BY(mutex_) = 0;  // that on_ready_ was told of
  WorkerStatus status_ GUARDED_BY(mutex_);
  std::shared_ptr<SharedMemoryServer> shared_memory_ GUARDED_BY(mutex_);
  std::shared_ptr<NcclServer> nccl_ GUARDED_BY(mutex_);
  absl::Time nccl_since_ GUARDED_BY(mutex_) = absl::InfiniteFuture();
  std::shared_ptr<GrpcExchangeClient> grpc_ GUARDED_BY(mutex_);
  std::thread heartbeats_;
  std::thread exchange_;
};

}  // namespace moepool
