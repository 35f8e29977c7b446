// The worker's end of Exchange: one thread that reads, computes and writes, driving the call's completion
// queue itself, which saves a change of threads a message.
#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/transport/grpc_frame.h"
#include "common/transport/grpc_transport.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"

namespace moepool {
namespace {

class ExchangeClient final : public GrpcExchangeClient {
 public:
  ExchangeClient(std::shared_ptr<grpc::Channel> channel, const std::string& session,
                 const TransportOptions& options)
      : options_(options), stub_(std::move(channel)) {
    context_.AddMetadata(kWorkerMetadata, session);
    context_.set_wait_for_ready(true);  // the channel may be between two attempts to reconnect
    call_ = stub_.PrepareCall(&context_, kExchangeMethod, &queue_);
  }

  ~ExchangeClient() override {
    context_.TryCancel();
    End().IgnoreError();
    queue_.Shutdown();
    void* tag;
    bool ok;
    while (queue_.Next(&tag, &ok)) {
    }
  }

  absl::Status Start(absl::Time deadline) {
    started_ = true;
    call_->StartCall(this);
    MOEPOOL_RETURN_IF_ERROR(WaitUntil(deadline));
    call_->ReadInitialMetadata(this);
    MOEPOOL_RETURN_IF_ERROR(WaitUntil(deadline));
    return context_.GetServerInitialMetadata().contains(kAcceptedMetadata) ? absl::OkStatus() : End();
  }

  absl::Status Serve(const FrameHandler& handler) override {
    const FrameWriter write = [this](const FramePieces& frame) -> absl::Status {
      call_->Write(EncodeFrameMessage(frame), this);
      return Wait() ? absl::OkStatus()
                    : absl::UnavailableError("the exchange broke while a reply was written");
    };
    grpc::ByteBuffer message;
    for (;;) {
      call_->Read(&message, this);
      if (!Wait()) return End();
      absl::StatusOr<FrameBytes> frame = DecodeFrameMessage(message, options_.max_dispatch_frame_bytes);
      if (!frame.ok()) {
        context_.TryCancel();
        End().IgnoreError();
        return frame.status();
      }
      message.Clear();
      handler(frame->bytes, write);
    }
  }

  void Stop() override { context_.TryCancel(); }

 private:
  // One operation is under way at a time, so whatever comes is its end.
  bool Wait() {
    void* tag;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  absl::Status WaitUntil(absl::Time deadline) {
    void* tag;
    bool ok = false;
    if (queue_.AsyncNext(&tag, &ok, absl::ToChronoTime(deadline)) == grpc::CompletionQueue::TIMEOUT) {
      context_.TryCancel();
      Wait();
      End().IgnoreError();
      return absl::DeadlineExceededError("the router did not accept the exchange in time");
    }
    if (ok) return absl::OkStatus();
    const absl::Status status = End();
    return status.ok() ? absl::UnavailableError("the router ended the exchange at once") : status;
  }

  // The call's status. Once.
  absl::Status End() {
    if (!started_ || ended_) return absl::OkStatus();
    ended_ = true;
    grpc::Status status;
    call_->Finish(&status, this);
    Wait();
    if (status.ok()) return absl::UnavailableError("the router ended the exchange");
    return absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                        StrCat("exchange: ", status.error_message()));
  }

  const TransportOptions options_;
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool started_ = false;
  bool ended_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcExchangeClient>> GrpcExchangeClient::Connect(
    std::shared_ptr<grpc::Channel> channel, const std::string& session, absl::Time deadline,
    const TransportOptions& options) {
  auto client = std::make_unique<ExchangeClient>(std::move(channel), session, options);
  MOEPOOL_RETURN_IF_ERROR(client->Start(deadline));
  return client;
}

}  // namespace moepool
