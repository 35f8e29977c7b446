// The router's end.
#include "common/transport/nccl_transport.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/transport/nccl_frames.h"

namespace moepool {
namespace {

// Held by its users; the control stream and the queue know it by weak references, so that it can go at any
// time.
class NcclTransport final : public ExpertTransport,
                            public DeviceSender,
                            public std::enable_shared_from_this<NcclTransport> {
 public:
  NcclTransport(std::shared_ptr<NcclQueue> queue, std::unique_ptr<NcclControl> control,
                const TransportOptions& options)
      : options_(options), queue_(std::move(queue)), inbox_(options), control_(std::move(control)) {}

  ~NcclTransport() override { Close(absl::UnavailableError("transport destroyed")); }

  absl::Status Connect(absl::Time deadline) {
    const std::weak_ptr<NcclTransport> self = weak_from_this();
    control_->Start({[self](FrameBytes message) {
                       if (const auto transport = self.lock()) transport->OnMessage(std::move(message));
                     },
                     [self](const absl::Status& cause) {
                       if (const auto transport = self.lock()) transport->Close(cause);
                     }});
    NcclId id;
    if (const NcclResult result = queue_->api().GetUniqueId(&id); result != NcclResult::kSuccess) {
      return absl::UnavailableError(absl::StrCat("NCCL, ncclGetUniqueId: ", queue_->api().Describe(result)));
    }
    MOEPOOL_RETURN_IF_ERROR(
        Say(control_.get(), NcclSays::kId, 0,
            std::span<const uint8_t>(reinterpret_cast<const uint8_t*>(id.bytes), sizeof(id.bytes))));
    MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<NcclPair> pair,
                             queue_->Connect(id, /*rank=*/0, deadline, [this] { return inbox_.status(); }));
    {
      MutexLock lock(&mutex_);
      pair_ = std::move(pair);
      pair_->Start([self](const absl::Status& cause) {
        if (const auto transport = self.lock()) transport->Close(cause);
      });
    }
    MOEPOOL_RETURN_IF_ERROR(Say(control_.get(), NcclSays::kReady));
    MutexLock lock(&mutex_);
    while (window_ == 0) {
      MOEPOOL_RETURN_IF_ERROR(inbox_.status());
      if (!WaitUntil(&changed_, &mutex_, deadline)) {
        return absl::DeadlineExceededError("NCCL: the worker's end was not ready in time");
      }
    }
    return inbox_.status();
  }

  std::string_view Name() const override { return "nccl"; }

  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
    MOEPOOL_RETURN_IF_ERROR(Begin(dispatch_id, frame.size(), deadline));
    return Sent(dispatch_id, Write(frame, deadline));
  }

  DeviceSender* device_sender() override { return queue_->options().keeps_on_device ? this : nullptr; }
  absl::StatusOr<DeviceBytes> TakeDevice(size_t head_bytes, size_t bytes) override {
    return TakeNcclMemory(queue_.get(), head_bytes, bytes, options_.max_dispatch_frame_bytes);
  }
  size_t small_frame_bytes() const override { return options_.inline_frame_bytes; }
  absl::Status SendRows(uint64_t dispatch_id, std::span<const uint8_t> head, DeviceBytes rows,
                        absl::Time deadline) override {
    MOEPOOL_RETURN_IF_ERROR(Begin(dispatch_id, head.size() + rows.bytes, deadline));
    return Sent(dispatch_id, Order(NcclSays::kTransfer, head, NcclBytes(std::move(rows)), deadline));
  }

  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    return inbox_.Receive(dispatch_id, deadline);
  }
  void Forget(uint64_t dispatch_id) override { inbox_.Forget(dispatch_id); }
  bool Lost() const override { return inbox_.lost(); }

  void Close(const absl::Status& cause) override {
    inbox_.Fail(cause);
    {
      MutexLock lock(&mutex_);
      if (pair_ != nullptr) pair_->Close(inbox_.status());
      changed_.NotifyAll();
    }
    control_->Close(inbox_.status());
  }

 private:
  absl::Status Begin(uint64_t dispatch_id, size_t bytes, absl::Time deadline) {
    if (bytes > options_.max_dispatch_frame_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("dispatch of ", bytes, " bytes, limit ", options_.max_dispatch_frame_bytes));
    }
    return inbox_.Begin(dispatch_id, deadline);
  }
  // What came of a dispatch that was begun.
  absl::Status Sent(uint64_t dispatch_id, const absl::Status& status) {
    if (status.ok()) return status;
    inbox_.Forget(dispatch_id);
    return inbox_.lost() ? inbox_.status() : status;
  }

  absl::Status Write(std::span<const uint8_t> frame, absl::Time deadline) {
    if (frame.size() <= options_.inline_frame_bytes) return Order(NcclSays::kFrame, frame, {}, deadline);
    absl::StatusOr<std::shared_ptr<const NcclBuffer>> buffer = queue_->staging().Take(frame.size());
    // Without memory of the GPU it goes as it would by gRPC.
    if (absl::IsResourceExhausted(buffer.status())) return Order(NcclSays::kFrame, frame, {}, deadline);
    if (!buffer.ok()) return buffer.status();
    std::copy(frame.begin(), frame.end(), (*buffer)->host);
    return Order(NcclSays::kTransfer, {}, {*std::move(buffer), frame.size()}, deadline);
  }

  // One dispatch: `payload` on the control stream, and the transfer of `bytes` where there are any.
  absl::Status Order(NcclSays says, std::span<const uint8_t> payload, NcclBytes bytes, absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (untaken_ >= window_) {
      MOEPOOL_RETURN_IF_ERROR(inbox_.status());
      if (!WaitUntil(&changed_, &mutex_, deadline)) {
        return absl::DeadlineExceededError(
            absl::StrCat("the worker has not taken up ", untaken_, " dispatches"));
      }
    }
    ++untaken_;
    // Said and queued under one lock, so that both are in one order.
    MOEPOOL_RETURN_IF_ERROR(Say(control_.get(), says, bytes.bytes, payload));
    if (bytes.bytes > 0) pair_->Send(std::move(bytes), nullptr);
    return absl::OkStatus();
  }

  void OnMessage(FrameBytes bytes) {
    absl::StatusOr<NcclMessage> message = DecodeNcclMessage(std::move(bytes));
    const absl::Status status = message.ok() ? Take(*std::move(message)) : message.status();
    if (!status.ok()) Close(status);
  }

  absl::Status Take(NcclMessage message) {
    switch (message.says) {
      case NcclSays::kFrame:
        return inbox_.Deliver(std::move(message.payload));
      case NcclSays::kOffer:
        return TakeReply(message.value, std::move(message.payload));
      case NcclSays::kReady: {
        MutexLock lock(&mutex_);
        if (window_ != 0 || message.value == 0) break;
        window_ = message.value;
        changed_.NotifyAll();
        return absl::OkStatus();
      }
      case NcclSays::kTaken: {
        MutexLock lock(&mutex_);
        if (untaken_ == 0) break;
        --untaken_;
        changed_.NotifyAll();
        return absl::OkStatus();
      }
      case NcclSays::kId:
      case NcclSays::kTransfer:
      case NcclSays::kTake:
        break;
    }
    return absl::InvalidArgumentError(absl::StrCat("NCCL control: the worker said ",
                                                   static_cast<uint32_t>(message.says), " with ",
                                                   message.value, ", which is out of place"));
  }

  absl::Status TakeReply(uint64_t bytes, FrameBytes head) {
    const size_t most = head.bytes.empty() ? options_.max_reply_frame_bytes : options_.max_device_reply_bytes;
    if (bytes == 0 || bytes > most) {
      return absl::InvalidArgumentError(absl::StrCat("reply of ", bytes, " bytes, limit ", most));
    }
    MOEPOOL_ASSIGN_OR_RETURN(NcclArrival arrival, ExpectNcclFrame(queue_.get(), std::move(head), bytes));
    MutexLock lock(&mutex_);
    if (pair_ == nullptr) return absl::InvalidArgumentError("a reply before there is a communicator");
    if (bytes > options_.max_queued_bytes - receiving_bytes_) {
      return absl::UnavailableError(
          absl::StrCat("worker offers more replies than are read: ", receiving_bytes_, " + ", bytes,
                       " bytes, limit ", options_.max_queued_bytes));
    }
    receiving_bytes_ += bytes;
    MOEPOOL_RETURN_IF_ERROR(Say(control_.get(), NcclSays::kTake, bytes));
    pair_->Receive(std::move(arrival.transfer),
                   [self = weak_from_this(), frame = std::move(arrival.frame), bytes] {
                     if (const auto transport = self.lock()) transport->OnReceived(frame, bytes);
                   });
    return absl::OkStatus();
  }

  void OnReceived(const FrameBytes& frame, size_t bytes) {
    {
      MutexLock lock(&mutex_);
      receiving_bytes_ -= bytes;
    }
    // The staging memory itself is handed on.
    const absl::Status status = inbox_.Deliver(frame);
    if (!status.ok()) Close(status);
  }

  const TransportOptions options_;
  const std::shared_ptr<NcclQueue> queue_;
  ReplyInbox inbox_;
  Mutex mutex_;
  CondVar changed_;
  std::unique_ptr<NcclPair> pair_ GUARDED_BY(mutex_);
  uint64_t window_ GUARDED_BY(mutex_) = 0;   // 0: the worker's end is not ready
  uint64_t untaken_ GUARDED_BY(mutex_) = 0;  // dispatches that the worker has not taken up
  size_t receiving_bytes_ GUARDED_BY(mutex_) = 0;
  const std::unique_ptr<NcclControl> control_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<ExpertTransport>> ConnectNcclTransport(std::shared_ptr<NcclQueue> queue,
                                                                      std::unique_ptr<NcclControl> control,
                                                                      absl::Time deadline,
                                                                      const TransportOptions& options) {
  auto transport = std::make_shared<NcclTransport>(std::move(queue), std::move(control), options);
  if (absl::Status status = transport->Connect(deadline); !status.ok()) {
    transport->Close(status);
    return status;
  }
  return transport;
}

}  // namespace moepool
