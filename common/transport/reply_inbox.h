// The router's side of every carrier: dispatches that are open, the frames that have arrived for each, the
// worker's credits, and loss. A carrier delivers here and does not interpret what it moves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/transport/expert_transport.h"
#include "common/transport/frame.h"

namespace moepool {

struct TransportOptions {
  int credits = 4;  // dispatches open at once
  size_t max_dispatch_frame_bytes = kMaxDispatchFrameBytes;
  size_t max_reply_frame_bytes = kMaxReplyFrameBytes;
  size_t max_device_reply_bytes = kMaxDeviceReplyBytes;  // NCCL: of a reply whose head comes ahead
  size_t max_queued_bytes = size_t{1} << 30;             // replies not yet received; more is loss
  size_t ring_bytes = size_t{8} << 20;                   // shared memory: each way, a power of two
  // NCCL: frames up to this go whole where otherwise their sizes would; a worker's replies that have not gone
  // are ring_bytes at most.
  size_t inline_frame_bytes = size_t{16} << 10;
};

// Waits on a CondVar in terms of an absl::Time: false once `deadline` has passed.
bool WaitUntil(CondVar* cv, Mutex* mutex, absl::Time deadline) REQUIRES(mutex);

// An owned copy of `bytes`, aligned to 64.
FrameBytes CopyFrame(const FramePieces& pieces);
// An owned, uninitialised frame; `*data` points at its bytes.
FrameBytes NewFrame(size_t bytes, uint8_t** data);

// Thread-safe.
class ReplyInbox {
 public:
  explicit ReplyInbox(const TransportOptions& options) : options_(options) {}

  // Opens a dispatch, waiting for a credit. InvalidArgument where it is open already; Unavailable after loss.
  absl::Status Begin(uint64_t dispatch_id, absl::Time deadline);
  // Files a frame under its header's dispatch id, or drops and counts it where that is not open. A frame
  // whose header is malformed, and more bytes than max_queued_bytes, are loss: returns the status the inbox
  // then has.
  absl::Status Deliver(FrameBytes frame);
  absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline);
  // Receive without waiting: true where `frame` was set.
  absl::StatusOr<bool> TryReceive(uint64_t dispatch_id, FrameBytes* frame);
  void Forget(uint64_t dispatch_id);

  // The first cause stays. Wakes all waiters; queued frames are gone.
  void Fail(const absl::Status& cause);
  bool lost() const;
  // Unavailable with the cause, or OK.
  absl::Status status() const;
  uint64_t dropped() const;

 private:
  struct Open {
    std::deque<FrameBytes> frames;
  };
  absl::StatusOr<bool> TryReceiveLocked(uint64_t dispatch_id, FrameBytes* frame) REQUIRES(mutex_);

  const TransportOptions options_;
  mutable Mutex mutex_;
  CondVar changed_;
  absl::Status loss_ GUARDED_BY(mutex_);
  size_t queued_bytes_ GUARDED_BY(mutex_) = 0;
  uint64_t dropped_ GUARDED_BY(mutex_) = 0;
  absl::flat_hash_map<uint64_t, Open> open_ GUARDED_BY(mutex_);
};

}  // namespace moepool
