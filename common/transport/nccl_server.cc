// The worker's end. The control stream's thread begins transfers as the router orders them, while Serve's
// computes: a transfer never waits for a computation.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/transport/nccl_frames.h"
#include "common/transport/nccl_transport.h"
#include "common/transport/unshared_status.h"

namespace moepool {
namespace {

// Known to the control stream and the queue by weak references.
class NcclServerImpl final : public NcclServer,
                             public DeviceWriter,
                             public std::enable_shared_from_this<NcclServerImpl> {
 public:
  NcclServerImpl(std::shared_ptr<NcclQueue> queue, std::unique_ptr<NcclControl> control,
                 const TransportOptions& options)
      : options_(options), queue_(std::move(queue)), control_(std::move(control)) {}

  ~NcclServerImpl() override { Fail(absl::CancelledError("stopped")); }

  absl::Status Start(absl::Time deadline) {
    const std::weak_ptr<NcclServerImpl> self = weak_from_this();
    control_->Start({[self](FrameBytes message) {
                       if (const auto server = self.lock()) server->OnMessage(std::move(message));
                     },
                     [self](const absl::Status& cause) {
                       if (const auto server = self.lock()) server->Fail(cause);
                     }});
    NcclId id;
    {
      MutexLock lock(&mutex_);
      MOEPOOL_RETURN_IF_ERROR(AwaitLocked(deadline, "name a communicator",
                                          [this]() REQUIRES(mutex_) { return id_.has_value(); }));
      id = *id_;
    }
    absl::StatusOr<std::unique_ptr<NcclPair>> pair =
        queue_->Connect(id, /*rank=*/1, deadline, [this] { return status(); });
    MOEPOOL_RETURN_IF_ERROR(pair.status());
    {
      MutexLock lock(&mutex_);
      pair_ = *std::move(pair);
      pair_->Start([self](const absl::Status& cause) {
        if (const auto server = self.lock()) server->OnPairLost(cause);
      });
    }
    MOEPOOL_RETURN_IF_ERROR(Say(control_.get(), NcclSays::kReady, Window()));
    MutexLock lock(&mutex_);
    return AwaitLocked(deadline, "become ready", [this]() REQUIRES(mutex_) { return router_ready_; });
  }

  absl::Status Serve(const DeviceFrameHandler& handler) override {
    for (;;) {
      FrameBytes frame;
      {
        MutexLock lock(&mutex_);
        while (loss_.ok() && (dispatches_.empty() || !dispatches_.front()->has_value())) {
          changed_.Wait(&mutex_);
        }
        if (!loss_.ok())
          return UnsharedStatus(loss_);  // what a router wrote before it went is wanted by nobody
        frame = *std::move(*dispatches_.front());
        dispatches_.pop_front();
        --ahead_;
      }
      Say(control_.get(), NcclSays::kTaken).IgnoreError();  // a loss ends the loop
      handler(frame, this);
    }
  }

  absl::Status Write(const FramePieces& frame) override {
    if (frame.bytes() > options_.inline_frame_bytes) {
      MOEPOOL_RETURN_IF_ERROR(AwaitRoom(frame.bytes()));
      absl::StatusOr<std::shared_ptr<const NcclBuffer>> buffer = queue_->staging().Take(frame.bytes());
      if (buffer.ok()) {
        std::copy(frame.head.begin(), frame.head.end(), (*buffer)->host);
        std::copy(frame.tail.begin(), frame.tail.end(), (*buffer)->host + frame.head.size());
        return Offer({}, {*std::move(buffer), frame.bytes()});
      }
      // Without memory of the GPU it goes as it would by gRPC.
      if (!absl::IsResourceExhausted(buffer.status())) return buffer.status();
    }
    MOEPOOL_RETURN_IF_ERROR(control_->AwaitRoom());
    return Say(control_.get(), NcclSays::kFrame, 0, frame);
  }

  absl::StatusOr<DeviceBytes> TakeDevice(size_t head_bytes, size_t bytes) override {
    return TakeNcclMemory(queue_.get(), head_bytes, bytes, options_.max_dispatch_frame_bytes);
  }
  size_t small_frame_bytes() const override { return options_.inline_frame_bytes; }
  absl::Status WriteParts(std::span<const uint8_t> head, DeviceBytes parts) override {
    MOEPOOL_RETURN_IF_ERROR(AwaitRoom(parts.bytes));
    return Offer(head, NcclBytes(std::move(parts)));
  }

  void Stop() override { Fail(absl::CancelledError("stopped")); }
  bool NcclFailed() const override { return nccl_failed_; }

  absl::Status status() const {
    MutexLock lock(&mutex_);
    return UnsharedStatus(loss_);
  }

  void Fail(const absl::Status& cause) {
    absl::Status loss;
    {
      MutexLock lock(&mutex_);
      if (loss_.ok()) loss_ = UnsharedStatus(cause);
      loss = UnsharedStatus(loss_);
      if (pair_ != nullptr) pair_->Close(loss);
      changed_.NotifyAll();
    }
    control_->Close(loss);
  }

 private:
  uint64_t Window() const { return static_cast<uint64_t>(std::max(options_.credits, 1)); }

  template <typename Condition>
  absl::Status AwaitLocked(absl::Time deadline, const char* what, Condition condition) REQUIRES(mutex_) {
    while (loss_.ok() && !condition()) {
      if (!WaitUntil(&changed_, &mutex_, deadline)) {
        return absl::DeadlineExceededError(absl::StrCat("NCCL: the router did not ", what, " in time"));
      }
    }
    return UnsharedStatus(loss_);
  }

  // A router that is slow to take replies holds up the worker, not its memory.
  absl::Status AwaitRoom(size_t bytes) {
    MutexLock lock(&mutex_);
    while (loss_.ok() && staged_bytes_ != 0 && staged_bytes_ + bytes > options_.ring_bytes) {
      changed_.Wait(&mutex_);
    }
    return UnsharedStatus(loss_);
  }

  absl::Status Offer(std::span<const uint8_t> head, NcclBytes reply) {
    MutexLock lock(&mutex_);
    const size_t bytes = reply.bytes;
    staged_bytes_ += bytes;
    offers_.push_back(std::move(reply));
    return Say(control_.get(), NcclSays::kOffer, bytes, head);
  }

  void OnMessage(FrameBytes bytes) {
    absl::StatusOr<NcclMessage> message = DecodeNcclMessage(std::move(bytes));
    const absl::Status status = message.ok() ? Obey(*std::move(message)) : message.status();
    if (!status.ok()) Fail(status);
  }

  absl::Status Obey(NcclMessage message) {
    MutexLock lock(&mutex_);
    switch (message.says) {
      case NcclSays::kId:
        if (id_.has_value()) break;
        id_.emplace();
        std::memcpy(id_->bytes, message.payload.bytes.data(), sizeof(id_->bytes));
        changed_.NotifyAll();
        return absl::OkStatus();
      case NcclSays::kReady:
        router_ready_ = true;
        changed_.NotifyAll();
        return absl::OkStatus();
      case NcclSays::kFrame:
        if (ahead_ >= Window()) break;
        ++ahead_;
        dispatches_.push_back(std::make_shared<std::optional<FrameBytes>>(std::move(message.payload)));
        changed_.NotifyAll();
        return absl::OkStatus();
      case NcclSays::kTransfer:
        if (ahead_ >= Window() || pair_ == nullptr || message.value == 0 ||
            message.value > options_.max_dispatch_frame_bytes ||
            message.payload.bytes.size() > options_.max_dispatch_frame_bytes - message.value) {
          break;
        }
        ++ahead_;
        return ReceiveDispatch(std::move(message.payload), message.value);
      case NcclSays::kTake:
        if (offers_.empty() || offers_.front().bytes != message.value) break;
        return SendReply();
      case NcclSays::kOffer:
      case NcclSays::kTaken:
        break;
    }
    return absl::InvalidArgumentError(absl::StrCat("NCCL control: the router said ",
                                                   static_cast<uint32_t>(message.says), " with ",
                                                   message.value, ", which is out of place"));
  }

  void OnPairLost(const absl::Status& cause) {
    if (status().ok()) nccl_failed_ = true;
    Fail(cause);
  }

  absl::Status ReceiveDispatch(FrameBytes head, size_t bytes) REQUIRES(mutex_) {
    MOEPOOL_ASSIGN_OR_RETURN(NcclArrival arrival, ExpectNcclFrame(queue_.get(), std::move(head), bytes));
    const auto place = std::make_shared<std::optional<FrameBytes>>();
    dispatches_.push_back(place);
    pair_->Receive(std::move(arrival.transfer),
                   [self = weak_from_this(), place, frame = std::move(arrival.frame)] {
                     const auto server = self.lock();
                     if (server == nullptr) return;
                     MutexLock lock(&server->mutex_);
                     *place = frame;
                     server->changed_.NotifyAll();
                   });
    return absl::OkStatus();
  }

  absl::Status SendReply() REQUIRES(mutex_) {
    NcclBytes reply = std::move(offers_.front());
    offers_.pop_front();
    const size_t bytes = reply.bytes;
    pair_->Send(std::move(reply), [self = weak_from_this(), bytes] {
      const auto server = self.lock();
      if (server == nullptr) return;
      MutexLock lock(&server->mutex_);
      server->staged_bytes_ -= bytes;
      server->changed_.NotifyAll();
    });
    return absl::OkStatus();
  }

  const TransportOptions options_;
  const std::shared_ptr<NcclQueue> queue_;
  std::atomic<bool> nccl_failed_ = false;
  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status loss_ GUARDED_BY(mutex_);
  std::optional<NcclId> id_ GUARDED_BY(mutex_);
  bool router_ready_ GUARDED_BY(mutex_) = false;
  std::unique_ptr<NcclPair> pair_ GUARDED_BY(mutex_);
  uint64_t ahead_ GUARDED_BY(mutex_) = 0;  // dispatches that have come, or are to, and are not taken up
  // In the order in which the router sent them; nothing in those that are still on their way.
  std::deque<std::shared_ptr<std::optional<FrameBytes>>> dispatches_ GUARDED_BY(mutex_);
  std::deque<NcclBytes> offers_ GUARDED_BY(mutex_);
  size_t staged_bytes_ GUARDED_BY(mutex_) = 0;  // of replies that have not gone
  const std::unique_ptr<NcclControl> control_;
};

}  // namespace

absl::Status NcclServer::Serve(const FrameHandler& handler) {
  return Serve([&handler](const FrameBytes& frame, DeviceWriter* writer) {
    MOEPOOL_CHECK(frame.device.empty());
    handler(frame.bytes, [writer](const FramePieces& answer) { return writer->Write(answer); });
  });
}

absl::StatusOr<std::shared_ptr<NcclServer>> NcclServer::Connect(std::shared_ptr<NcclQueue> queue,
                                                                std::unique_ptr<NcclControl> control,
                                                                absl::Time deadline,
                                                                const TransportOptions& options) {
  auto server = std::make_shared<NcclServerImpl>(std::move(queue), std::move(control), options);
  if (absl::Status status = server->Start(deadline); !status.ok()) {
    server->Fail(status);
    return status;
  }
  return server;
}

}  // namespace moepool
