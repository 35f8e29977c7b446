// The router's end of Exchange.
#include "common/transport/grpc_transport.h"

#include <deque>
#include <utility>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/transport/grpc_frame.h"
#include "grpcpp/server_context.h"

namespace moepool {
namespace {

using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

// Shared by the transport and by gRPC, which lets go in OnDone. gRPC calls one reaction of a kind at a time.
class Exchange final : public Reactor {
 public:
  Exchange(grpc::CallbackServerContext* context, const TransportOptions& options)
      : options_(options), inbox_(options), context_(context) {}

  void Start(std::shared_ptr<Exchange> self) {
    self_ = std::move(self);
    context_->AddInitialMetadata(kAcceptedMetadata, "1");
    StartSendInitialMetadata();  // tells the worker that it is accepted
    StartRead(&read_);
  }

  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) {
    if (frame.size() > options_.max_dispatch_frame_bytes) {
      return absl::ResourceExhaustedError(
          StrCat("dispatch of ", frame.size(), " bytes, limit ", options_.max_dispatch_frame_bytes));
    }
    MOEPOOL_RETURN_IF_ERROR(inbox_.Begin(dispatch_id, deadline));
    grpc::ByteBuffer message = EncodeFrameMessage(frame);
    MutexLock lock(&mutex_);
    MOEPOOL_RETURN_IF_ERROR(inbox_.status());
    writes_.push_back(std::move(message));  // at most one for each credit
    if (writes_.size() == 1) StartWrite(&writes_.front());
    return absl::OkStatus();
  }

  void Close(const absl::Status& cause) {
    inbox_.Fail(cause);
    MutexLock lock(&mutex_);
    // Cancelled rather than finished in order: a worker that does not read would hold up an orderly end for
    // ever.
    if (!done_) context_->TryCancel();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return End(absl::UnavailableError("the worker ended the exchange"));
    absl::StatusOr<FrameBytes> frame = DecodeFrameMessage(read_, options_.max_reply_frame_bytes);
    if (!frame.ok()) return End(frame.status());
    if (absl::Status status = inbox_.Deliver(*std::move(frame)); !status.ok()) return End(status);
    read_.Clear();
    StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::UnavailableError("the exchange broke while a dispatch was written"));
    MutexLock lock(&mutex_);
    writes_.pop_front();
    if (!writes_.empty() && !finished_) StartWrite(&writes_.front());
  }

  void OnCancel() override { End(absl::UnavailableError("the connection to the worker was lost")); }

  void OnDone() override {
    inbox_.Fail(absl::UnavailableError("the exchange is over"));
    {
      MutexLock lock(&mutex_);
      done_ = true;
    }
    const std::shared_ptr<Exchange> self = std::move(self_);  // may destroy this
  }

  ReplyInbox& inbox() { return inbox_; }

 private:
  void End(const absl::Status& cause) {
    inbox_.Fail(cause);
    MutexLock lock(&mutex_);
    if (finished_) return;
    finished_ = true;
    Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, std::string(cause.message())));
  }

  const TransportOptions options_;
  ReplyInbox inbox_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  grpc::ByteBuffer read_;
  std::shared_ptr<Exchange> self_;
  Mutex mutex_;
  std::deque<grpc::ByteBuffer> writes_ GUARDED_BY(mutex_);  // the first is being written
  bool finished_ GUARDED_BY(mutex_) = false;
  bool done_ GUARDED_BY(mutex_) = false;
};

class GrpcTransport final : public ExpertTransport {
 public:
  explicit GrpcTransport(std::shared_ptr<Exchange> exchange) : exchange_(std::move(exchange)) {}
  ~GrpcTransport() override { exchange_->Close(absl::UnavailableError("transport destroyed")); }

  std::string_view Name() const override { return "grpc"; }
  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
    return exchange_->Send(dispatch_id, frame, deadline);
  }
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    return exchange_->inbox().Receive(dispatch_id, deadline);
  }
  void Forget(uint64_t dispatch_id) override { exchange_->inbox().Forget(dispatch_id); }
  void Close(const absl::Status& cause) override { exchange_->Close(cause); }
  bool Lost() const override { return exchange_->inbox().lost(); }

 private:
  const std::shared_ptr<Exchange> exchange_;
};

}  // namespace

AcceptedExchange AcceptGrpcExchange(grpc::CallbackServerContext* context, const TransportOptions& options) {
  auto exchange = std::make_shared<Exchange>(context, options);
  exchange->Start(exchange);
  return {exchange.get(), std::make_shared<GrpcTransport>(exchange)};
}

}  // namespace moepool
