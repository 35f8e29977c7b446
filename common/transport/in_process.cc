#include "common/transport/in_process.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

class InProcessTransport final : public ExpertTransport {
 public:
  InProcessTransport(FrameHandler handler, const TransportOptions& options)
      : handler_(std::move(handler)), options_(options), inbox_(options) {}

  std::string_view Name() const override { return "in_process"; }

  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
    if (frame.size() > options_.max_dispatch_frame_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("dispatch of ", frame.size(), " bytes, limit ", options_.max_dispatch_frame_bytes));
    }
    MOEPOOL_RETURN_IF_ERROR(inbox_.Begin(dispatch_id, deadline));
    if (absl::Status status = TakeHandler(deadline); !status.ok()) {
      inbox_.Forget(dispatch_id);
      return status;
    }
    handler_(frame, [this](const FramePieces& reply) -> absl::Status {
      if (reply.bytes() > options_.max_reply_frame_bytes) {
        return absl::ResourceExhaustedError(
            absl::StrCat("reply of ", reply.bytes(), " bytes, limit ", options_.max_reply_frame_bytes));
      }
      return inbox_.Deliver(CopyFrame(reply));
    });
    MutexLock lock(&mutex_);
    running_ = false;
    idle_.NotifyOne();
    return inbox_.status();
  }

  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    return inbox_.Receive(dispatch_id, deadline);
  }
  void Forget(uint64_t dispatch_id) override { inbox_.Forget(dispatch_id); }
  void Close(const absl::Status& cause) override {
    inbox_.Fail(cause);
    MutexLock lock(&mutex_);
    idle_.NotifyAll();
  }
  bool Lost() const override { return inbox_.lost(); }

 private:
  absl::Status TakeHandler(absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (running_) {
      MOEPOOL_RETURN_IF_ERROR(inbox_.status());
      if (!WaitUntil(&idle_, &mutex_, deadline)) {
        return absl::DeadlineExceededError("the worker stayed busy with another dispatch");
      }
    }
    running_ = true;
    return absl::OkStatus();
  }

  const FrameHandler handler_;
  const TransportOptions options_;
  ReplyInbox inbox_;
  Mutex mutex_;
  CondVar idle_;
  bool running_ GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<ExpertTransport> MakeInProcessTransport(FrameHandler handler,
                                                        const TransportOptions& options) {
  return std::make_unique<InProcessTransport>(std::move(handler), options);
}

}  // namespace moepool
