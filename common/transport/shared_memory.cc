#include "common/transport/shared_memory.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {
namespace {

// How long who waits goes without a look at whether the peer lives.
constexpr absl::Duration kSlice = absl::Milliseconds(20);
constexpr absl::Duration kIdleSlice = absl::Milliseconds(100);  // a worker without work
// A sender that waits for space also takes replies in, because the worker may be waiting for that.
constexpr absl::Duration kSendSlice = absl::Milliseconds(1);

class SharedMemoryTransport final : public ExpertTransport {
 public:
  SharedMemoryTransport(SharedMemoryConnection connection, const TransportOptions& options)
      : options_(options),
        connection_(std::move(connection)),
        inbox_(options),
        sender_(connection_.segment->to_worker(), connection_.segment->to_worker_data(),
                connection_.segment->ring_bytes()),
        receiver_(connection_.segment->to_router(), connection_.segment->to_router_data(),
                  connection_.segment->ring_bytes(), options.max_reply_frame_bytes) {}

  ~SharedMemoryTransport() override { Close(absl::UnavailableError("transport destroyed")); }

  std::string_view Name() const override { return "shm"; }

  absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) override {
    if (frame.size() > options_.max_dispatch_frame_bytes) {
      return absl::ResourceExhaustedError(
          StrCat("dispatch of ", frame.size(), " bytes, limit ", options_.max_dispatch_frame_bytes));
    }
    MOEPOOL_RETURN_IF_ERROR(inbox_.Begin(dispatch_id, deadline));
    absl::Status status = Take(&sending_, deadline);
    if (status.ok()) {
      status = sender_.Send(frame, deadline, kSendSlice, [this] { return Idle(); });
      Leave(&sending_);
      if (status.code() == absl::StatusCode::kDataLoss) Close(status);
    }
    if (status.ok()) return status;
    inbox_.Forget(dispatch_id);
    return inbox_.lost() ? inbox_.status() : status;
  }

  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) override {
    for (;;) {
      FrameBytes frame;
      // One receiver at a time reads the ring, for all; the others wait for it to be done.
      const absl::Status taken = Take(&receiving_, deadline);
      absl::StatusOr<bool> received = inbox_.TryReceive(dispatch_id, &frame);
      if (taken.ok()) {
        if (received.ok() && !*received) {
          Pump(deadline - absl::Now());
          received = inbox_.TryReceive(dispatch_id, &frame);
        }
        Leave(&receiving_);
      }
      MOEPOOL_RETURN_IF_ERROR(received.status());
      if (*received) return frame;
      if (absl::Now() >= deadline) {
        return absl::DeadlineExceededError(StrCat("dispatch ", dispatch_id, ": no reply by the deadline"));
      }
    }
  }

  void Forget(uint64_t dispatch_id) override { inbox_.Forget(dispatch_id); }

  void Close(const absl::Status& cause) override {
    inbox_.Fail(cause);
    connection_.peer.HangUp();
    WakeRing(connection_.segment->to_router());
    WakeRing(connection_.segment->to_worker());
    MutexLock lock(&mutex_);
    changed_.NotifyAll();
  }

  bool Lost() const override {
    if (!inbox_.lost() && !connection_.peer.Alive()) inbox_.Fail(PeerGone());
    return inbox_.lost();
  }

 private:
  static absl::Status PeerGone() { return absl::UnavailableError("the worker's process is gone"); }

  absl::Status Take(bool* role, absl::Time deadline) {
    MutexLock lock(&mutex_);
    while (*role) {
      MOEPOOL_RETURN_IF_ERROR(inbox_.status());
      if (!WaitUntil(&changed_, &mutex_, deadline))
        return absl::DeadlineExceededError("the transport stayed busy");
    }
    *role = true;
    return absl::OkStatus();
  }

  void Leave(bool* role) {
    MutexLock lock(&mutex_);
    *role = false;
    changed_.NotifyAll();
  }

  // Files what has arrived; where nothing has, waits for it, a slice at most. The caller has `receiving_`.
  void Pump(absl::Duration limit) {
    const absl::StatusOr<bool> delivered = Drain();
    if (!delivered.ok()) return Close(delivered.status());
    if (*delivered || limit <= absl::ZeroDuration()) return;
    receiver_.Wait(std::min(limit, kSlice));
    const absl::StatusOr<bool> later = Drain();
    if (!later.ok()) return Close(later.status());
    // What the worker wrote before it went has been read by now.
    if (!*later && !connection_.peer.Alive()) Close(PeerGone());
  }

  // Takes in about a ring's capacity at most, so that a worker which writes as fast as we read does not keep
  // us beyond a deadline.
  absl::StatusOr<bool> Drain() {
    bool any = false;
    const uint64_t begin = receiver_.read_bytes();
    while (receiver_.read_bytes() - begin < connection_.segment->ring_bytes()) {
      FrameBytes frame;
      MOEPOOL_ASSIGN_OR_RETURN(const bool received, receiver_.Poll(&frame));
      if (!received) break;
      MOEPOOL_RETURN_IF_ERROR(inbox_.Deliver(std::move(frame)));
      any = true;
    }
    return any;
  }

  absl::Status Idle() {
    MOEPOOL_RETURN_IF_ERROR(inbox_.status());
    bool taken = false;
    {
      MutexLock lock(&mutex_);
      if (!receiving_) taken = receiving_ = true;
    }
    if (taken) {
      Pump(absl::ZeroDuration());
      Leave(&receiving_);
    }
    if (!connection_.peer.Alive()) Close(PeerGone());
    return inbox_.status();
  }

  const TransportOptions options_;
  const SharedMemoryConnection connection_;
  mutable ReplyInbox inbox_;
  Mutex mutex_;
  CondVar changed_;
  bool sending_ GUARDED_BY(mutex_) = false;
  bool receiving_ GUARDED_BY(mutex_) = false;
  RingSender sender_;      // of who set sending_
  RingReceiver receiver_;  // of who set receiving_
};

}  // namespace

std::unique_ptr<ExpertTransport> MakeSharedMemoryTransport(SharedMemoryConnection connection,
                                                           const TransportOptions& options) {
  return std::make_unique<SharedMemoryTransport>(std::move(connection), options);
}

SharedMemoryServer::SharedMemoryServer(SharedMemoryConnection connection, const TransportOptions& options)
    : connection_(std::move(connection)),
      receiver_(connection_.segment->to_worker(), connection_.segment->to_worker_data(),
                connection_.segment->ring_bytes(), options.max_dispatch_frame_bytes),
      sender_(connection_.segment->to_router(), connection_.segment->to_router_data(),
              connection_.segment->ring_bytes()) {}

absl::Status SharedMemoryServer::CheckRouter() const {
  if (stopped_.load()) return absl::CancelledError("stopped");
  if (!connection_.peer.Alive()) return absl::UnavailableError("the router is gone");
  return absl::OkStatus();
}

absl::Status SharedMemoryServer::Serve(const FrameHandler& handler) {
  const FrameWriter write = [this](const FramePieces& frame) {
    return sender_.Send(frame, absl::InfiniteFuture(), kSlice, [this] { return CheckRouter(); });
  };
  absl::Status status;
  while (status.ok()) {
    FrameBytes frame;
    const absl::StatusOr<bool> received = receiver_.Poll(&frame);
    if (!received.ok()) {
      status = received.status();
    } else if (*received) {
      // What a router wrote before it went is wanted by nobody.
      status = CheckRouter();
      if (status.ok()) handler(frame.bytes, write);
    } else {
      receiver_.Wait(kIdleSlice);
      status = CheckRouter();
    }
  }
  connection_.peer.HangUp();
  return status;
}

void SharedMemoryServer::Stop() {
  stopped_.store(true);
  connection_.peer.HangUp();
  WakeRing(connection_.segment->to_worker());
  WakeRing(connection_.segment->to_router());
}

}  // namespace moepool
