// One dispatch to one worker and its answer. Frames are those of frame.h; a transport moves them and does not
// look inside beyond the header's length and dispatch id.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace moepool {

// Received bytes, aligned to 8; valid as long as the object.
struct FrameBytes {
  std::span<const uint8_t> bytes;
  std::shared_ptr<const void> owner = nullptr;
  // What follows `bytes` in the frame, in memory of the GPU that the process computes on, aligned to 256;
  // empty: nothing. All of it is there by now, for whatever is queued on that GPU from now on.
  std::span<const uint8_t> device = {};

  size_t size() const { return bytes.size() + device.size(); }
};

// Memory of the GPU that the process computes on.
struct DeviceBytes {
  uint8_t* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> owner = nullptr;
};

// What carries the ends of frames, which are their rows or parts, from and to device memory as they are.
// Thread-safe.
class DeviceCarrier {
 public:
  virtual ~DeviceCarrier() = default;
  // `bytes`, aligned to 256, for what follows a head of `head_bytes`. ResourceExhausted where there is no
  // such memory left, or where either is larger than is carried so: then the frame is to go from the host's
  // memory.
  virtual absl::StatusOr<DeviceBytes> TakeDevice(size_t head_bytes, size_t bytes) = 0;
  // Frames up to this go whole from the host's memory just as well.
  virtual size_t small_frame_bytes() const = 0;
};

// Of a router.
class DeviceSender : public DeviceCarrier {
 public:
  // As ExpertTransport::Send, of the frame that is `head` and `rows`, memory of TakeDevice() or a part of
  // such. What writes it has been waited for, and nobody writes it any more.
  virtual absl::Status SendRows(uint64_t dispatch_id, std::span<const uint8_t> head, DeviceBytes rows,
                                absl::Time deadline) = 0;
};

// The router's end. Thread-safe.
//  1. Send and Receive return by their deadline, whatever the worker does.
//  2. After loss both return Unavailable, at once, for ever; a transport is never revived.
//  3. A frame for a dispatch that was not begun, or was forgotten, is dropped and counted. A duplicate is
//  passed
//     on: the receiver of frames accepts each part once.
//  4. Frames of one dispatch arrive in any order.
class ExpertTransport {
 public:
  virtual ~ExpertTransport() = default;
  virtual std::string_view Name() const = 0;  // "in_process", "shm", "nccl", "grpc"
  // Begins dispatch `dispatch_id`. `frame` is free again on return. DeadlineExceeded where the worker's
  // credits stayed used up; ResourceExhausted where the frame is larger than the transport can carry.
  virtual absl::Status Send(uint64_t dispatch_id, std::span<const uint8_t> frame, absl::Time deadline) = 0;
  // The next frame of that dispatch. DeadlineExceeded; Unavailable after loss, with the cause.
  virtual absl::StatusOr<FrameBytes> Receive(uint64_t dispatch_id, absl::Time deadline) = 0;
  // No more frames of that dispatch are wanted.
  virtual void Forget(uint64_t dispatch_id) = 0;
  // Loss by the router's own will; wakes waiters with `cause`.
  virtual void Close(const absl::Status& cause) = 0;
  virtual bool Lost() const = 0;
  // How rows go from device memory; null: frames come from the host's alone.
  virtual DeviceSender* device_sender() { return nullptr; }
};

// A frame in up to two pieces that follow one another, so that data need not be copied behind its header.
struct FramePieces {
  // A whole frame is one piece.
  FramePieces(std::span<const uint8_t> frame) : head(frame) {}     // NOLINT(google-explicit-constructor)
  FramePieces(const std::vector<uint8_t>& frame) : head(frame) {}  // NOLINT(google-explicit-constructor)
  FramePieces(std::span<const uint8_t> first, std::span<const uint8_t> second) : head(first), tail(second) {}
  size_t bytes() const { return head.size() + tail.size(); }

  std::span<const uint8_t> head;
  std::span<const uint8_t> tail;
};

// The worker's end of a carrier hands each dispatch frame to a handler, which answers through `write` with
// one or more frames. Called by one thread at a time for each carrier. A status from `write` means that the
// router is gone.
using FrameWriter = std::function<absl::Status(const FramePieces& frame)>;
using FrameHandler = std::function<void(std::span<const uint8_t> frame, const FrameWriter& write)>;

// The same where dispatches may have their rows in device memory. Frames of the answer may have their parts
// there.
class DeviceWriter : public DeviceCarrier {
 public:
  virtual absl::Status Write(const FramePieces& frame) = 0;
  // As of DeviceSender::SendRows.
  virtual absl::Status WriteParts(std::span<const uint8_t> head, DeviceBytes parts) = 0;
};
using DeviceFrameHandler = std::function<void(const FrameBytes& frame, DeviceWriter* writer)>;

}  // namespace moepool
