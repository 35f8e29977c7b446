// The carrier for a router and a worker that both compute on GPUs. A frame's end, its rows or sums, goes from
// the one GPU's memory to the other's over a communicator of the two; its head goes ahead on a control
// stream. Frames from the host's memory go through page-locked memory to the GPU and take the same way whole;
// up to TransportOptions::inline_frame_bytes, and where the GPU has no memory for them, on the control
// stream. Loss of either, the stream or the communicator, is loss.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport/expert_transport.h"
#include "common/transport/nccl_control.h"
#include "common/transport/nccl_queue.h"
#include "common/transport/reply_inbox.h"

namespace moepool {

// The router's end. Blocks until frames can be carried, or a status says why they cannot: Unavailable,
// DeadlineExceeded. The queue is shared by all transports of the router, whose transfers it groups.
absl::StatusOr<std::shared_ptr<ExpertTransport>> ConnectNcclTransport(std::shared_ptr<NcclQueue> queue,
                                                                      std::unique_ptr<NcclControl> control,
                                                                      absl::Time deadline,
                                                                      const TransportOptions& options = {});

// The worker's end.
class NcclServer {
 public:
  virtual ~NcclServer() = default;
  static absl::StatusOr<std::shared_ptr<NcclServer>> Connect(std::shared_ptr<NcclQueue> queue,
                                                             std::unique_ptr<NcclControl> control,
                                                             absl::Time deadline,
                                                             const TransportOptions& options = {});
  // Hands each dispatch to `handler`, in this thread, until the transport is lost; returns why it is. Called
  // once.
  virtual absl::Status Serve(const DeviceFrameHandler& handler) = 0;
  // The same where the queue keeps nothing on the device.
  absl::Status Serve(const FrameHandler& handler);
  // Ends Serve, and tells the router. Thread-safe.
  virtual void Stop() = 0;
  // Whether it was NCCL that failed, rather than the control stream, whose end may be the router's.
  virtual bool NcclFailed() const = 0;
};

}  // namespace moepool
