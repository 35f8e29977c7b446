#include "expert_worker/worker_session_client.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/rpc/gpu_convert.h"
#include "common/rpc/rpc_status.h"
#include "common/transport/grpc_nccl_control.h"
#include "common/transport/host_id.h"
#include "common/transport/pool_protocol.h"

namespace moepool {
namespace {

constexpr absl::Duration kConnectLimit = absl::Seconds(10);
constexpr absl::Duration kNcclConnectLimit = absl::Seconds(15);  // the router's, too

// Routers that know no other transport take an empty name for this.
constexpr std::string_view kSharedMemoryName = "shm";

bool Takes(TransportChoice choice, TransportChoice transport) {
  return choice == TransportChoice::kAuto || choice == transport;
}

}  // namespace

experts::v1::Hello MakeHello(const WorkerOptions& options, const ModelDigest& digest, const Backend& backend,
                             const ExpertStore& store) {
  experts::v1::Hello hello;
  hello.set_protocol_version(kPoolProtocolVersion);
  hello.set_model_digest(digest.data(), digest.size());
  hello.set_name(ProcessName());
  hello.set_backend(std::string(backend.Name()));
  hello.set_numeric_class(backend.NumericClass());
  hello.set_memory_limit_bytes(store.memory_limit_bytes());
  hello.set_host_id(HostId(options.shm_directory));
  hello.set_accepts_shared_memory(Takes(options.transport, TransportChoice::kSharedMemory));
  hello.set_accepts_grpc(Takes(options.transport, TransportChoice::kGrpc));
  if (Takes(options.transport, TransportChoice::kNccl) && options.nccl != nullptr) {
    hello.set_nccl_version(static_cast<uint32_t>(options.nccl->api().Version()));
  }
  hello.set_pid(static_cast<uint32_t>(getpid()));
  return hello;
}

WorkerSession::WorkerSession(const WorkerOptions& options, const SessionChannels& channels,
                             experts::v1::Hello hello, ExpertStore* store, Executor* executor,
                             AssignmentLoader* loader, Worker::OnReady on_ready)
    : options_(options),
      channels_(channels),
      hello_(std::move(hello)),
      store_(store),
      executor_(executor),
      loader_(loader),
      on_ready_(std::move(on_ready)) {}

absl::Status WorkerSession::Run() {
  {
    MutexLock lock(&write_mutex_);
    stream_ = experts::v1::ExpertPool::NewStub(channels_.control)->Join(&context_);
  }
  experts::v1::WorkerMessage hello;
  *hello.mutable_hello() = hello_;
  Write(hello);
  experts::v1::RouterMessage message;
  bool goes_on = true;
  while (goes_on && stream_->Read(&message)) goes_on = Handle(message);
  {
    MutexLock lock(&mutex_);
    ended_ = true;
    changed_.NotifyAll();
    if (shared_memory_ != nullptr) shared_memory_->Stop();
    if (nccl_ != nullptr) nccl_->Stop();
    if (grpc_ != nullptr) grpc_->Stop();
  }
  if (exchange_.joinable()) exchange_.join();
  if (heartbeats_.joinable()) heartbeats_.join();
  {
    MutexLock lock(&write_mutex_);
    stream_->WritesDone();
  }
  if (!goes_on) context_.TryCancel();  // otherwise the call is over, and has the router's status
  const grpc::Status status = stream_->Finish();
  MutexLock lock(&mutex_);
  status_ = {};
  if (!cause_.ok()) return cause_;
  if (!status.ok()) return FromGrpc(status);
  return absl::UnavailableError("the router ended the membership");
}

bool WorkerSession::Write(const experts::v1::WorkerMessage& message) {
  MutexLock lock(&write_mutex_);
  return stream_ != nullptr && stream_->Write(message);
}

bool WorkerSession::Handle(const experts::v1::RouterMessage& message) {
  using Message = experts::v1::RouterMessage;
  switch (message.message_case()) {
    case Message::kWelcome:
      Start(message.welcome());
      return true;
    case Message::kAssign: {
      std::vector<ExpertRef> experts;
      for (const experts::v1::LayerExperts& layer : message.assign().layers()) {
        for (const int32_t expert : layer.experts()) experts.push_back({layer.layer(), expert});
      }
      {
        MutexLock lock(&mutex_);
        assigned_epoch_ = message.assign().epoch();
        released_ = false;
      }
      Log(LogLevel::kInfo, "assigned", {{"epoch", message.assign().epoch()}, {"experts", experts.size()}});
      loader_->Assign(message.assign().epoch(), std::move(experts));
      return true;
    }
    case Message::kRelease:
      loader_->Release(message.release().epoch());
      {
        MutexLock lock(&mutex_);
        released_ = message.release().epoch() == assigned_epoch_;
      }
      TellIfReady();
      return true;
    case Message::kGoodbye:
      End(absl::UnavailableError(StrCat("the router said goodbye: ", message.goodbye().reason())));
      return false;
    case Message::MESSAGE_NOT_SET:
      return true;  // of a newer router
  }
  return true;
}

void WorkerSession::Start(const experts::v1::Welcome& welcome) {
  {
    MutexLock lock(&mutex_);
    if (welcomed_) return;
    welcomed_ = true;
    status_.joined = true;
    status_.worker_id = welcome.worker_id();
  }
  Log(LogLevel::kInfo, "joined", {{"router", options_.router}, {"worker_id", welcome.worker_id()}});
  const auto period = absl::Milliseconds(std::clamp<uint64_t>(welcome.heartbeat_ms(), 10, 60'000));
  heartbeats_ = std::thread([this, period] { Heartbeats(period); });
  exchange_ = std::thread([this, welcome] { ServeExchange(welcome); });
}

experts::v1::WorkerMessage WorkerSession::Stats() const {
  const ExecutorStats stats = executor_->stats();
  experts::v1::WorkerMessage message;
  message.mutable_stats()->set_expert_bytes(store_->bytes());
  message.mutable_stats()->set_dispatches(stats.dispatches);
  message.mutable_stats()->set_rows(stats.rows);
  message.mutable_stats()->set_busy_seconds(stats.busy_seconds);
  if (options_.read_gpu != nullptr) {
    if (const std::optional<GpuReading> gpu = options_.read_gpu(); gpu.has_value()) {
      ToProto(*gpu, message.mutable_stats()->mutable_gpu());
    }
  }
  return message;
}

void WorkerSession::Heartbeats(absl::Duration period) {
  for (;;) {
    const experts::v1::WorkerMessage message = Stats();
    bool leave = false;
    {
      MutexLock lock(&mutex_);
      const absl::Time next = absl::Now() + period;
      const auto quiet = [&] {
        return !ended_ && (drain_deadline_ == absl::InfiniteFuture() || told_leaving_);
      };
      while (quiet() && absl::Now() < drain_deadline_ &&
             WaitUntil(&changed_, &mutex_, std::min(next, drain_deadline_))) {
      }
      if (ended_) return;
      if (absl::Now() >= drain_deadline_) break;
      leave = drain_deadline_ != absl::InfiniteFuture() && !told_leaving_;
      if (leave) told_leaving_ = true;
    }
    if (leave) {
      experts::v1::WorkerMessage leaving;
      leaving.mutable_leaving();
      Write(leaving);
    }
    Write(message);
  }
  End(absl::DeadlineExceededError("not released within the drain's limit"));
}

// Shared memory goes before NCCL, which on one host would cross two GPUs' memories for nothing; NCCL before
// gRPC. What cannot be had leaves its place to the next, but where it was asked for by name.
void WorkerSession::ServeExchange(const experts::v1::Welcome& welcome) {
  if (Takes(options_.transport, TransportChoice::kSharedMemory)) {
    absl::Status status = absl::UnavailableError("the router offers none");
    if (!welcome.shared_memory_socket().empty()) {
      bool connected = false;
      status = ServeSharedMemory(welcome, &connected);
      if (connected) return End(status);
      Failed(kSharedMemoryName, status);
    }
    if (options_.transport == TransportChoice::kSharedMemory) {
      return End(absl::UnimplementedError(StrCat("--transport shm: shared memory with ", options_.router,
                                                 " cannot be had: ", status.message())));
    }
  }
  if (Takes(options_.transport, TransportChoice::kNccl)) {
    absl::Status status = absl::UnavailableError(options_.nccl == nullptr         ? options_.no_nccl
                                                 : welcome.nccl_refused().empty() ? "the router offers none"
                                                                                  : welcome.nccl_refused());
    if (options_.nccl != nullptr && welcome.nccl()) {
      bool connected = false;
      status = ServeNccl(welcome, &connected);
      if (connected) return End(status);
      Failed(kNcclCarrier, status);
    }
    if (options_.transport == TransportChoice::kNccl) {
      return End(absl::UnimplementedError(
          StrCat("--transport nccl: NCCL with ", options_.router, " cannot be had: ", status.message())));
    }
  }
  End(ServeGrpc(welcome));
}

void WorkerSession::Failed(std::string_view transport, const absl::Status& cause) {
  Log(LogLevel::kInfo, "a transport cannot be had",
      {{"transport", std::string(transport)}, {"cause", std::string(ToStd(cause.message()))}});
  experts::v1::WorkerMessage failed;
  failed.mutable_transport_failed()->set_error(std::string(cause.message()));
  if (transport != kSharedMemoryName)
    failed.mutable_transport_failed()->set_transport(std::string(transport));
  Write(failed);
}

absl::Status WorkerSession::ServeSharedMemory(const experts::v1::Welcome& welcome, bool* connected) {
  MOEPOOL_ASSIGN_OR_RETURN(SharedMemoryConnection connection,
                           DialSharedMemory(welcome.shared_memory_socket(), welcome.session(), kConnectLimit,
                                            options_.shm_directory));
  *connected = true;
  auto server = std::make_shared<SharedMemoryServer>(std::move(connection));
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::CancelledError("ended");
    shared_memory_ = server;
  }
  Connected("shm");
  return server->Serve(
      [this](std::span<const uint8_t> frame, const FrameWriter& write) { executor_->Handle(frame, write); });
}

absl::Status WorkerSession::ServeNccl(const experts::v1::Welcome& welcome, bool* connected) {
  MOEPOOL_ASSIGN_OR_RETURN(
      std::unique_ptr<NcclControl> control,
      DialNcclControl(channels_.exchange, welcome.session(), absl::Now() + kConnectLimit));
  MOEPOOL_ASSIGN_OR_RETURN(
      std::shared_ptr<NcclServer> server,
      NcclServer::Connect(options_.nccl, std::move(control), absl::Now() + kNcclConnectLimit));
  *connected = true;
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::CancelledError("ended");
    nccl_ = server;
    nccl_since_ = absl::Now();
  }
  Connected("nccl");
  return server->Serve(
      [this](const FrameBytes& frame, DeviceWriter* writer) { executor_->Handle(frame, writer); });
}

absl::Status WorkerSession::ServeGrpc(const experts::v1::Welcome& welcome) {
  MOEPOOL_ASSIGN_OR_RETURN(
      std::shared_ptr<GrpcExchangeClient> client,
      GrpcExchangeClient::Connect(channels_.exchange, welcome.session(), absl::Now() + kConnectLimit));
  {
    MutexLock lock(&mutex_);
    if (ended_) return absl::CancelledError("ended");
    grpc_ = client;
  }
  Connected("grpc");
  return client->Serve(
      [this](std::span<const uint8_t> frame, const FrameWriter& write) { executor_->Handle(frame, write); });
}

void WorkerSession::Connected(const std::string& transport) {
  {
    MutexLock lock(&mutex_);
    status_.transport = transport;
  }
  TellIfReady();
}

void WorkerSession::Loaded(uint64_t epoch, const absl::Status& status) {
  experts::v1::WorkerMessage message;
  if (status.ok()) {
    MutexLock lock(&mutex_);
    loaded_epoch_ = epoch;
    message.mutable_loaded()->set_epoch(epoch);
  } else {
    Log(LogLevel::kError, "cannot load", {{"epoch", epoch}, {"error", std::string(ToStd(status.message()))}});
    message.mutable_load_failed()->set_epoch(epoch);
    message.mutable_load_failed()->set_error(std::string(status.message()));
  }
  if (!Write(message) || !status.ok()) return;
  Write(Stats());  // so that the pool need not wait a heartbeat to know what is held
  Log(LogLevel::kInfo, "loaded", {{"epoch", epoch}, {"bytes", store_->bytes()}});
}

void WorkerSession::TellIfReady() {
  WorkerStatus status;
  {
    MutexLock lock(&mutex_);
    if (released_ && loaded_epoch_ == assigned_epoch_) in_force_epoch_ = assigned_epoch_;
    if (!Ready() || told_epoch_ == in_force_epoch_) return;
    told_epoch_ = in_force_epoch_;
    status = status_;
    status.ready = true;
  }
  on_ready_(status);
}

void WorkerSession::Drain() {
  MutexLock lock(&mutex_);
  drain_deadline_ = absl::Now() + options_.drain_limit;
  changed_.NotifyAll();
  // Not in the pool yet, so that nothing is to be handed over.
  if (!welcomed_) {
    cause_ = absl::CancelledError("drained");
    context_.TryCancel();
  }
}

void WorkerSession::End(const absl::Status& cause) {
  MutexLock lock(&mutex_);
  if (cause_.ok()) cause_ = cause;
  context_.TryCancel();
}

bool WorkerSession::welcomed() const {
  MutexLock lock(&mutex_);
  return welcomed_;
}

absl::Time WorkerSession::nccl_since() const {
  MutexLock lock(&mutex_);
  return nccl_since_;
}

WorkerStatus WorkerSession::status() const {
  MutexLock lock(&mutex_);
  WorkerStatus status = status_;
  status.ready = Ready();
  return status;
}

}  // namespace moepool
