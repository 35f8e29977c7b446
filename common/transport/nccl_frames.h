// What both ends of the NCCL transport do with a frame of which the control stream brings the head.
#pragma once

#include <cstddef>

#include "absl/status/statusor.h"
#include "common/transport/expert_transport.h"
#include "common/transport/nccl_queue.h"

namespace moepool {

// `frame` is there once `transfer` is done: in the host's memory as a whole, or with its end in the device's
// where the queue keeps it there.
struct NcclArrival {
  NcclBytes transfer;
  FrameBytes frame;
};

// Memory for a frame that is `head`, or nothing yet, and `bytes` more. InvalidArgument where the head's own
// length is another; ResourceExhausted.
absl::StatusOr<NcclArrival> ExpectNcclFrame(NcclQueue* queue, FrameBytes head, size_t bytes);

// As DeviceCarrier::TakeDevice, where frames of up to `most` bytes are carried.
absl::StatusOr<DeviceBytes> TakeNcclMemory(NcclQueue* queue, size_t head_bytes, size_t bytes, size_t most);

}  // namespace moepool
