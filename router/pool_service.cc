#include "router/pool_service.h"

#include <atomic>
#include <deque>
#include <list>
#include <set>
#include <thread>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/log.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/rpc/gpu_convert.h"
#include "common/rpc/rpc_status.h"
#include "common/transport/grpc_nccl_control.h"
#include "common/transport/grpc_transport.h"
#include "common/transport/host_id.h"
#include "common/transport/nccl_transport.h"
#include "common/transport/shared_memory.h"
#include "grpcpp/server_context.h"
#include "proto/experts.grpc.pb.h"
#include "router/pool_sessions.h"

namespace moepool {
namespace {

using experts::v1::RouterMessage;
using experts::v1::WorkerMessage;

// Joining a communicator takes seconds: its library's start, connections, memory of the GPU.
constexpr absl::Duration kNcclConnectLimit = absl::Seconds(15);

// What the streams need of the service.
struct PoolContext {
  Membership* membership = nullptr;
  PoolServiceOptions options;
  std::string host_id;
  std::string socket_name;  // empty: no shared memory
  PoolSessions sessions;
};

// One worker's control stream. Lives until gRPC is done with it and membership has let go of the link.
class JoinStream final : public grpc::ServerBidiReactor<WorkerMessage, RouterMessage>, public WorkerLink {
 public:
  explicit JoinStream(PoolContext* pool) : pool_(pool) {}

  void Start(std::shared_ptr<JoinStream> self) {
    self_ = std::move(self);
    StartRead(&read_);
  }

  void Welcome(WorkerId worker) override {
    const bool shared_memory = !pool_->socket_name.empty() && accepts_shared_memory_;
    RouterMessage message;
    experts::v1::Welcome* welcome = message.mutable_welcome();
    welcome->set_worker_id(worker.value());
    welcome->set_router_id(pool_->options.router_id);
    welcome->set_incarnation(pool_->options.incarnation);
    welcome->set_heartbeat_ms(absl::ToInt64Milliseconds(pool_->options.heartbeat));
    if (shared_memory) welcome->set_shared_memory_socket(pool_->socket_name);
    std::set<Carrier> carriers;
    if (shared_memory) carriers.insert(Carrier::kSharedMemory);
    if (accepts_grpc_) carriers.insert(Carrier::kGrpc);
    if (OffersNccl(welcome)) carriers.insert(Carrier::kNccl);
    const std::string session = pool_->sessions.Open(worker, std::move(carriers));
    welcome->set_session(session);
    {
      MutexLock lock(&mutex_);
      worker_ = worker;
      session_ = session;
    }
    Push(std::move(message), /*last=*/false);
  }

  void Assign(uint64_t epoch, std::vector<ExpertRef> experts) override {
    RouterMessage message;
    experts::v1::Assign* assign = message.mutable_assign();
    assign->set_epoch(epoch);
    experts::v1::LayerExperts* layer = nullptr;
    for (const ExpertRef& ref : experts) {  // ascending
      if (layer == nullptr || layer->layer() != ref.layer) {
        layer = assign->add_layers();
        layer->set_layer(ref.layer);
      }
      layer->add_experts(ref.expert);
    }
    Push(std::move(message), /*last=*/false);
  }

  void Release(uint64_t epoch) override {
    RouterMessage message;
    message.mutable_release()->set_epoch(epoch);
    Push(std::move(message), /*last=*/false);
  }

  void Goodbye(const std::string& reason) override {
    std::string session;
    {
      MutexLock lock(&mutex_);
      session = session_;
    }
    pool_->sessions.Close(session);
    RouterMessage message;
    message.mutable_goodbye()->set_reason(reason);
    Push(std::move(message), /*last=*/true);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Lose("the worker ended its control stream");
    if (const absl::Status status = Handle(); !status.ok()) {
      return Lose(std::string(ToStd(status.message())), ToGrpc(status));
    }
    StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Lose("the worker's control stream broke");
    MutexLock lock(&mutex_);
    writes_.pop_front();
    if (!writes_.empty()) {
      if (!finished_) StartWrite(&writes_.front());
    } else if (last_pushed_ && !finished_) {
      finished_ = true;
      Finish(grpc::Status::OK);
    }
  }

  void OnCancel() override { Lose("the connection to the worker was lost"); }

  void OnDone() override {
    {
      MutexLock lock(&mutex_);
      finished_ = true;
    }
    const std::shared_ptr<JoinStream> self = std::move(self_);  // may destroy this
  }

 private:
  absl::Status Handle() {
    WorkerId worker;
    std::string session;
    {
      MutexLock lock(&mutex_);
      worker = worker_;
      session = session_;
    }
    Membership& membership = *pool_->membership;
    if (read_.message_case() == WorkerMessage::kHello) {
      if (!session.empty()) return absl::InvalidArgumentError("a second Hello");
      return Join();
    }
    if (session.empty()) return absl::InvalidArgumentError("the first message must be a Hello");
    switch (read_.message_case()) {
      case WorkerMessage::kLoaded:
        membership.OnLoaded(worker, read_.loaded().epoch());
        break;
      case WorkerMessage::kLoadFailed:
        membership.OnLoadFailed(worker, read_.load_failed().epoch(), read_.load_failed().error());
        break;
      case WorkerMessage::kStats:
        membership.OnLoad(worker, Load(read_.stats()));
        break;
      case WorkerMessage::kLeaving:
        membership.OnLeaving(worker);
        break;
      case WorkerMessage::kTransportFailed:
        pool_->sessions.Forbid(session, read_.transport_failed().transport() == kNcclCarrier
                                            ? Carrier::kNccl
                                            : Carrier::kSharedMemory);
        break;
      case WorkerMessage::kHello:
      case WorkerMessage::MESSAGE_NOT_SET:
        return absl::InvalidArgumentError("a message without content");
    }
    return absl::OkStatus();
  }

  static WorkerLoad Load(const experts::v1::WorkerStats& stats) {
    WorkerLoad load{stats.expert_bytes(), stats.dispatches(), stats.rows(), stats.busy_seconds(), {}};
    if (stats.has_gpu()) load.gpu = FromProto(stats.gpu());
    return load;
  }

  absl::Status Join() {
    const experts::v1::Hello& hello = read_.hello();
    // A worker that takes nothing else is offered shared memory wherever it says that it runs.
    const bool on_host =
        hello.host_id() == pool_->host_id ||
        (hello.accepts_shared_memory() && !hello.accepts_grpc() && hello.nccl_version() == 0);
    accepts_shared_memory_ = hello.accepts_shared_memory() && on_host;
    accepts_grpc_ = hello.accepts_grpc();
    nccl_version_ = static_cast<int>(hello.nccl_version());
    return pool_->membership
        ->Join({hello.protocol_version(), hello.model_digest(), hello.name(), hello.backend(),
                hello.numeric_class(), hello.memory_limit_bytes(), on_host},
               self_)
        .status();
  }

  bool OffersNccl(experts::v1::Welcome* welcome) const {
    if (nccl_version_ == 0) return false;
    const std::shared_ptr<NcclQueue>& nccl = pool_->options.nccl;
    if (nccl != nullptr && nccl->api().Version() == nccl_version_) {
      welcome->set_nccl(true);
    } else if (nccl != nullptr) {
      welcome->set_nccl_refused(StrCat("the router has NCCL ", NcclVersionName(nccl->api().Version()),
                                       ", the worker ", NcclVersionName(nccl_version_)));
    } else {
      welcome->set_nccl_refused(pool_->options.no_nccl);
    }
    return welcome->nccl();
  }

  void Push(RouterMessage message, bool last) {
    MutexLock lock(&mutex_);
    if (finished_ || last_pushed_) return;
    last_pushed_ = last;
    writes_.push_back(std::move(message));
    if (writes_.size() == 1) StartWrite(&writes_.front());
  }

  // Membership answers with Goodbye, which nobody will read.
  void Lose(const std::string& cause, const grpc::Status& status = grpc::Status::OK) {
    WorkerId worker;
    {
      MutexLock lock(&mutex_);
      worker = worker_;
    }
    pool_->membership->ReportLoss(worker, absl::UnavailableError(cause));
    MutexLock lock(&mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(status);
  }

  PoolContext* const pool_;
  WorkerMessage read_;
  std::shared_ptr<JoinStream> self_;
  bool accepts_shared_memory_ = false;
  bool accepts_grpc_ = false;
  int nccl_version_ = 0;
  Mutex mutex_;  // taken after Membership's
  WorkerId worker_ GUARDED_BY(mutex_);
  std::string session_ GUARDED_BY(mutex_);
  std::deque<RouterMessage> writes_ GUARDED_BY(mutex_);  // the first is being written
  bool last_pushed_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
};

class RefusedExchange final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedExchange(const absl::Status& status) { Finish(ToGrpc(status)); }
  void OnDone() override { delete this; }
};

class PoolServiceImpl final
    : public PoolService,
      public experts::v1::ExpertPool::WithRawCallbackMethod_Exchange<
          experts::v1::ExpertPool::WithCallbackMethod_Join<experts::v1::ExpertPool::Service>> {
 public:
  PoolServiceImpl(Membership* membership, const PoolServiceOptions& options) {
    pool_.membership = membership;
    pool_.options = options;
    pool_.host_id = HostId(options.shm_directory);
  }

  ~PoolServiceImpl() override {
    socket_ = nullptr;
    for (Attaching& attaching : attaching_) attaching.thread.join();  // their streams have ended
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
      changed_.NotifyAll();
    }
    if (ticker_.joinable()) ticker_.join();
  }

  absl::Status Start() {
    if (pool_.options.shared_memory) {
      MOEPOOL_ASSIGN_OR_RETURN(
          socket_,
          SharedMemorySocket::Listen(
              pool_.options.transport.ring_bytes,
              {[this](const std::string& session) {
                 return pool_.sessions.Find(session, Carrier::kSharedMemory).ok();
               },
               [this](const std::string& session, SharedMemoryConnection connection) {
                 const absl::StatusOr<WorkerId> worker = pool_.sessions.Find(session, Carrier::kSharedMemory);
                 if (!worker.ok()) return;
                 // A status means that the worker is gone again, or has a transport; membership closes this
                 // one.
                 pool_.membership
                     ->AttachTransport(
                         *worker, MakeSharedMemoryTransport(std::move(connection), pool_.options.transport))
                     .IgnoreError();
               }},
              pool_.options.shm_directory));
      pool_.socket_name = socket_->name();
    }
    ticker_ = std::thread([this] { Tick(); });
    return absl::OkStatus();
  }

  grpc::Service* service() override { return this; }

  grpc::ServerBidiReactor<WorkerMessage, RouterMessage>* Join(grpc::CallbackServerContext*) override {
    auto stream = std::make_shared<JoinStream>(&pool_);
    stream->Start(stream);
    return stream.get();
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Exchange(
      grpc::CallbackServerContext* context) override {
    const auto metadata = context->client_metadata().find(kWorkerMetadata);
    const std::string session = metadata == context->client_metadata().end()
                                    ? ""
                                    : std::string(metadata->second.data(), metadata->second.size());
    const auto carrier = context->client_metadata().find(kCarrierMetadata);
    const bool nccl = carrier != context->client_metadata().end() && carrier->second == kNcclCarrier;
    const absl::StatusOr<WorkerId> worker =
        pool_.sessions.Find(session, nccl ? Carrier::kNccl : Carrier::kGrpc);
    if (!worker.ok()) return new RefusedExchange(worker.status());
    if (nccl) {
      pool_.sessions.Forbid(session, Carrier::kNccl);  // one attempt
      AcceptedNcclControl accepted = AcceptNcclControl(context);
      AttachNccl(*worker, std::move(accepted.control));
      return accepted.reactor;
    }
    AcceptedExchange accepted = AcceptGrpcExchange(context, pool_.options.transport);
    pool_.membership->AttachTransport(*worker, std::move(accepted.transport)).IgnoreError();
    return accepted.reactor;
  }

 private:
  struct Attaching {
    std::thread thread;
    std::atomic<bool> done = false;
  };

  // Waits for the worker's part, up to the limit, in a thread of its own.
  void AttachNccl(WorkerId worker, std::unique_ptr<NcclControl> control) {
    MutexLock lock(&mutex_);
    attaching_.remove_if([](Attaching& attaching) {
      if (!attaching.done) return false;
      attaching.thread.join();
      return true;
    });
    Attaching& attaching = attaching_.emplace_back();
    attaching.thread = std::thread([this, worker, &attaching, control = std::move(control)]() mutable {
      auto transport = ConnectNcclTransport(pool_.options.nccl, std::move(control),
                                            absl::Now() + kNcclConnectLimit, pool_.options.transport);
      if (transport.ok()) {
        pool_.membership->AttachTransport(worker, *std::move(transport)).IgnoreError();
      } else {
        Log(LogLevel::kWarning, "NCCL cannot be had",
            {{"worker_id", worker.value()}, {"cause", std::string(ToStd(transport.status().message()))}});
      }
      attaching.done = true;
    });
  }

  void Tick() {
    MutexLock lock(&mutex_);
    while (!stopping_) {
      WaitUntil(&changed_, &mutex_, absl::Now() + pool_.options.heartbeat);
      mutex_.Unlock();
      pool_.membership->Tick();
      mutex_.Lock();
    }
  }

  PoolContext pool_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::list<Attaching> attaching_;  // guarded by mutex_ until the server is down
  std::thread ticker_;
  std::unique_ptr<SharedMemorySocket> socket_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<PoolService>> PoolService::Create(Membership* membership,
                                                                 const PoolServiceOptions& options) {
  auto service = std::make_unique<PoolServiceImpl>(membership, options);
  MOEPOOL_RETURN_IF_ERROR(service->Start());
  return service;
}

}  // namespace moepool
