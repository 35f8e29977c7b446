#include "expert_worker/worker.h"

#include <unistd.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "common/base/str.h"
#include "common/rpc/rpc_channel.h"
#include "expert_worker/assignment_loader.h"
#include "expert_worker/worker_session_client.h"

namespace moepool {
namespace {

class WorkerImpl final : public Worker {
 public:
  WorkerImpl(const WorkerOptions& options, const ModelDigest& digest, Backend* backend, ExpertStore* store,
             Executor* executor, OnReady on_ready)
      : options_(options),
        digest_(digest),
        backend_(backend),
        store_(store),
        executor_(executor),
        on_ready_(std::move(on_ready)),
        loader_(store, options.load_threads,
                [this](uint64_t epoch, const absl::Status& status) { Loaded(epoch, status); }) {}

  absl::Status Run() override {
    // No two connections share a socket: an exchange never waits behind control.
    const SessionChannels channels = {
        MakeRpcChannel(options_.router),
        MakeRpcChannel(options_.router, {.max_message_bytes = kExchangeMessageBytes})};
    std::minstd_rand random(static_cast<uint32_t>(getpid()));
    absl::Duration backoff = options_.min_backoff;
    for (;;) {
      WorkerOptions options = options_;
      if (absl::Now() < nccl_after_) {
        options.nccl = nullptr;
        options.no_nccl = StrCat("it was lost ", options_.nccl_attempts, " times one after another");
      }
      auto session =
          std::make_shared<WorkerSession>(options, channels, MakeHello(options, digest_, *backend_, *store_),
                                          store_, executor_, &loader_, on_ready_);
      {
        MutexLock lock(&mutex_);
        if (draining_) return absl::OkStatus();
        session_ = session;
      }
      const bool reached = AwaitConnection(channels.control.get());
      const absl::Status end = session->Run();
      loader_.Cancel();  // epochs of another membership mean nothing
      JudgeNccl(session->nccl_since());
      MutexLock lock(&mutex_);
      session_ = nullptr;
      if (draining_) return absl::OkStatus();
      if (end.code() == absl::StatusCode::kFailedPrecondition ||
          end.code() == absl::StatusCode::kUnimplemented) {
        return end;
      }
      // A router that is away is dialled by gRPC, at its own pace.
      if (session->welcomed() || !reached) backoff = options_.min_backoff;
      // Spread out, so that the workers of a router that comes back do not all dial at once.
      const absl::Duration wait = backoff * std::uniform_real_distribution<double>(0.5, 1.0)(random);
      Log(LogLevel::kWarning, "not in the pool",
          {{"router", options_.router},
           {"cause", std::string(ToStd(end.message()))},
           {"retry_s", absl::ToDoubleSeconds(wait)}});
      backoff = std::min(backoff * 2, options_.max_backoff);
      const absl::Time until = absl::Now() + wait;
      while (!draining_ && WaitUntil(&changed_, &mutex_, until)) {
      }
      if (draining_) return absl::OkStatus();
    }
  }

  void Drain() override {
    std::shared_ptr<WorkerSession> session;
    {
      MutexLock lock(&mutex_);
      draining_ = true;
      changed_.NotifyAll();
      session = session_;
    }
    if (session != nullptr) session->Drain();
  }

  WorkerStatus status() const override {
    MutexLock lock(&mutex_);
    return session_ == nullptr ? WorkerStatus{} : session_->status();
  }

 private:
  // Until the router is there; false after max_backoff, or where the worker drains. gRPC goes on with a
  // connection only while somebody waits for it, so that a call which fails at once may never see the router
  // come back.
  bool AwaitConnection(grpc::Channel* channel) {
    const absl::Time until = absl::Now() + options_.max_backoff;
    while (!draining() && absl::Now() < until) {
      const absl::Time slice = std::min(until, absl::Now() + absl::Milliseconds(100));
      if (channel->WaitForConnected(absl::ToChronoTime(slice))) return true;
    }
    return false;
  }
  bool draining() const {
    MutexLock lock(&mutex_);
    return draining_;
  }

  // After a membership in which NCCL carried since `since`, or not at all.
  void JudgeNccl(absl::Time since) {
    if (since == absl::InfiniteFuture()) return;
    nccl_losses_ = absl::Now() - since < options_.nccl_trial ? nccl_losses_ + 1 : 0;
    if (nccl_losses_ < options_.nccl_attempts || options_.transport == TransportChoice::kNccl) return;
    nccl_losses_ = 0;
    nccl_after_ = absl::Now() + options_.nccl_pause;
    Log(LogLevel::kWarning, "NCCL does not last, gRPC takes its place",
        {{"losses", options_.nccl_attempts},
         {"until_tried_again_s", absl::ToDoubleSeconds(options_.nccl_pause)}});
  }

  void Loaded(uint64_t epoch, const absl::Status& status) {
    std::shared_ptr<WorkerSession> session;
    {
      MutexLock lock(&mutex_);
      session = session_;
    }
    if (session != nullptr) session->Loaded(epoch, status);
  }

  const WorkerOptions options_;
  const ModelDigest digest_;
  Backend* const backend_;
  ExpertStore* const store_;
  Executor* const executor_;
  const OnReady on_ready_;
  int nccl_losses_ = 0;  // one after another; of Run's thread
  absl::Time nccl_after_ = absl::InfinitePast();
  mutable Mutex mutex_;
  CondVar changed_;
  bool draining_ GUARDED_BY(mutex_) = false;
  std::shared_ptr<WorkerSession> session_ GUARDED_BY(mutex_);
  AssignmentLoader loader_;  // last: its thread calls Loaded
};

}  // namespace

std::unique_ptr<Worker> Worker::Create(const WorkerOptions& options, const ModelDigest& digest,
                                       Backend* backend, ExpertStore* store, Executor* executor,
                                       OnReady on_ready) {
  return std::make_unique<WorkerImpl>(options, digest, backend, store, executor, std::move(on_ready));
}

}  // namespace moepool
