#include "common/transport/grpc_nccl_control.h"

#include <cstring>
#include <deque>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/transport/frame.h"
#include "common/transport/grpc_frame.h"
#include "common/transport/grpc_transport.h"
#include "common/transport/reply_inbox.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/client_callback.h"

namespace moepool {
namespace {

constexpr size_t kRoomBytes = 256 << 10;
// Of a frame that goes whole for want of memory of the GPU, and a message's header.
constexpr size_t kMaxMessageBytes = kMaxDispatchFrameBytes + sizeof(NcclMessageHeader);

// What the reactors of both ends share. gRPC holds it until OnDone, and calls one reaction of a kind at a
// time.
template <typename Reactor>
class ControlStream : public Reactor {
 public:
  void Listen(const NcclControl::Callbacks& callbacks) {
    absl::Status ended;
    {
      MutexLock lock(&mutex_);
      callbacks_ = callbacks;
      listening_ = true;
      ended = done_ ? cause_ : absl::OkStatus();
      if (cause_.ok()) {
        this->StartRead(&read_);
        return;
      }
    }
    if (!ended.ok()) callbacks.lost(ended);  // nobody else will say so
  }

  absl::Status Write(const NcclMessageHeader& header, const FramePieces& payload) {
    std::vector<uint8_t> head(sizeof(header) + payload.head.size());
    std::memcpy(head.data(), &header, sizeof(header));
    std::copy(payload.head.begin(), payload.head.end(), head.begin() + sizeof(header));
    grpc::ByteBuffer message = EncodeFrameMessage(FramePieces(head, payload.tail));
    MutexLock lock(&mutex_);
    if (!cause_.ok()) return cause_;
    queued_bytes_ += message.Length();
    writes_.push_back(std::move(message));
    if (writes_.size() == 1) this->StartWrite(&writes_.front());
    return absl::OkStatus();
  }

  absl::Status AwaitRoom() {
    MutexLock lock(&mutex_);
    while (cause_.ok() && queued_bytes_ > kRoomBytes) changed_.Wait(&mutex_);
    return cause_;
  }

  void Close(const absl::Status& cause) {
    MutexLock lock(&mutex_);
    EndLocked(cause);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Close(absl::UnavailableError("the other end left the NCCL control stream"));
    absl::StatusOr<FrameBytes> message = DecodeFrameMessage(read_, kMaxMessageBytes);
    if (!message.ok()) return Close(message.status());
    read_.Clear();
    callbacks_.message(*std::move(message));
    MutexLock lock(&mutex_);
    if (cause_.ok()) this->StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    if (!ok) EndLocked(absl::UnavailableError("the NCCL control stream broke"));
    if (!cause_.ok()) return;
    queued_bytes_ -= writes_.front().Length();
    writes_.pop_front();
    changed_.NotifyAll();
    if (!writes_.empty()) this->StartWrite(&writes_.front());
  }

 protected:
  // Ends the call. Once, with the lock held; `cause` is not OK.
  virtual void EndCall(const absl::Status& cause) = 0;

  void EndLocked(const absl::Status& cause) REQUIRES(mutex_) {
    if (!cause_.ok()) return;
    cause_ = absl::UnavailableError(cause.ok() ? "closed" : cause.message());
    changed_.NotifyAll();
    EndCall(cause_);
  }
  bool Writing() const REQUIRES(mutex_) { return !writes_.empty(); }

  // From OnDone.
  void Done(const absl::Status& cause) {
    absl::Status ended;
    {
      MutexLock lock(&mutex_);
      if (cause_.ok()) cause_ = cause;
      ended = cause_;
      done_ = true;
      changed_.NotifyAll();
      if (!listening_) return;
    }
    callbacks_.lost(ended);
  }

  Mutex mutex_;
  CondVar changed_;
  absl::Status cause_ GUARDED_BY(mutex_);  // of the end
  bool done_ GUARDED_BY(mutex_) = false;

 private:
  NcclControl::Callbacks callbacks_;  // set before anything is read
  bool listening_ GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer read_;
  std::deque<grpc::ByteBuffer> writes_ GUARDED_BY(mutex_);  // the first is being written
  size_t queued_bytes_ GUARDED_BY(mutex_) = 0;
};

class RouterStream final : public ControlStream<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  explicit RouterStream(grpc::CallbackServerContext* context) : context_(context) {}

  void Accept(std::shared_ptr<RouterStream> self) {
    self_ = std::move(self);
    context_->AddInitialMetadata(kAcceptedMetadata, "1");
    StartSendInitialMetadata();
  }

  void OnCancel() override { Close(absl::UnavailableError("the connection to the worker was lost")); }
  void OnDone() override {
    Done(absl::UnavailableError("the NCCL control stream is over"));
    const std::shared_ptr<RouterStream> self = std::move(self_);  // may destroy this
  }

 private:
  void EndCall(const absl::Status& cause) override {
    // Behind a write that a worker does not read, an orderly end would take for ever.
    if (Writing()) context_->TryCancel();
    Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, std::string(cause.message())));
  }

  grpc::CallbackServerContext* const context_;  // valid until OnDone, hence until the call has been ended
  std::shared_ptr<RouterStream> self_;
};

class WorkerStream final : public ControlStream<grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  WorkerStream(std::shared_ptr<grpc::Channel> channel, const std::string& session)
      : stub_(std::move(channel)) {
    context_.AddMetadata(kWorkerMetadata, session);
    context_.AddMetadata(kCarrierMetadata, kNcclCarrier);
    context_.set_wait_for_ready(true);  // the channel may be between two attempts to reconnect
  }

  absl::Status Dial(std::shared_ptr<WorkerStream> self, absl::Time deadline) {
    self_ = std::move(self);
    stub_.PrepareBidiStreamingCall(&context_, kExchangeMethod, {}, this);
    AddHold();  // writes and the first read come from outside of reactions
    StartCall();
    MutexLock lock(&mutex_);
    while (cause_.ok() && !accepted_) {
      if (!WaitUntil(&changed_, &mutex_, deadline)) {
        EndLocked(absl::UnavailableError("the router did not accept the NCCL control stream in time"));
        return absl::DeadlineExceededError(cause_.message());
      }
    }
    while (refused_ && !done_) changed_.Wait(&mutex_);  // for the router's own status
    return refused_ ? status_ : cause_;
  }

  void OnReadInitialMetadataDone(bool ok) override {
    MutexLock lock(&mutex_);
    accepted_ = ok && context_.GetServerInitialMetadata().contains(kAcceptedMetadata);
    if (!accepted_) {
      refused_ = cause_.ok();
      if (cause_.ok()) {
        cause_ = absl::UnavailableError("refused");
        RemoveHold();  // and the call ends by itself
      }
    }
    changed_.NotifyAll();
  }

  void OnDone(const grpc::Status& status) override {
    const std::string why = status.ok() ? "the router ended the NCCL control stream"
                                        : StrCat("exchange: ", status.error_message());
    {
      MutexLock lock(&mutex_);
      status_ = absl::Status(
          status.ok() ? absl::StatusCode::kUnavailable : static_cast<absl::StatusCode>(status.error_code()),
          why);
    }
    Done(absl::UnavailableError(why));
    const std::shared_ptr<WorkerStream> self = std::move(self_);  // may destroy this
  }

 private:
  void EndCall(const absl::Status&) override {
    context_.TryCancel();
    RemoveHold();
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  std::shared_ptr<WorkerStream> self_;
  bool accepted_ GUARDED_BY(mutex_) = false;
  bool refused_ GUARDED_BY(mutex_) = false;
  absl::Status status_ GUARDED_BY(mutex_);  // the call's, once done
};

template <typename Stream>
class GrpcNcclControl final : public NcclControl {
 public:
  explicit GrpcNcclControl(std::shared_ptr<Stream> stream) : stream_(std::move(stream)) {}
  ~GrpcNcclControl() override { stream_->Close(absl::UnavailableError("the NCCL transport was let go")); }
  void Start(Callbacks callbacks) override { stream_->Listen(callbacks); }
  absl::Status Write(const NcclMessageHeader& header, const FramePieces& payload) override {
    return stream_->Write(header, payload);
  }
  absl::Status AwaitRoom() override { return stream_->AwaitRoom(); }
  void Close(const absl::Status& cause) override { stream_->Close(cause); }

 private:
  const std::shared_ptr<Stream> stream_;
};

}  // namespace

AcceptedNcclControl AcceptNcclControl(grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<RouterStream>(context);
  stream->Accept(stream);
  return {stream.get(), std::make_unique<GrpcNcclControl<RouterStream>>(stream)};
}

absl::StatusOr<std::unique_ptr<NcclControl>> DialNcclControl(std::shared_ptr<grpc::Channel> channel,
                                                             const std::string& session,
                                                             absl::Time deadline) {
  auto stream = std::make_shared<WorkerStream>(std::move(channel), session);
  auto control = std::make_unique<GrpcNcclControl<WorkerStream>>(stream);
  MOEPOOL_RETURN_IF_ERROR(stream->Dial(stream, deadline));
  return control;
}

}  // namespace moepool
