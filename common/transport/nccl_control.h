// What the two ends of an NCCL transport say to one another beside the transfers themselves: sizes, which go
// ahead, and small frames whole. The stream that carries it is gRPC's (grpc_nccl_control.h); tests have one
// of their own.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/transport/expert_transport.h"

namespace moepool {

// Transfers of a pair take place one after another, in one order for both ends: that in which the router says
// kTransfer and kTake. Neither end ever begins a transfer that the other has not heard of.
enum class NcclSays : uint32_t {
  kId = 1,     // router: payload is the communicator's id
  kReady = 2,  // both: my end carries.  worker's value: dispatches it takes ahead of its computing
  kFrame = 3,  // both: payload is a frame
  // Payload is a frame's head, or empty where the whole frame is transferred. Where either end keeps the rest
  // of a frame is its own affair.
  kTransfer = 4,  // router: `value` bytes of a dispatch are the next transfer
  kOffer = 5,     // worker: `value` bytes of a reply wait for their turn
  kTake = 6,      // router: the oldest reply that was offered, of `value` bytes, is the next transfer
  kTaken = 7,     // worker: computing takes up a dispatch, there is room for another
};

// More is not carried ahead of its rows. Well below what a control stream takes.
inline constexpr size_t kMaxNcclHeadBytes = 256 << 10;

struct NcclMessageHeader {
  NcclSays says = NcclSays::kReady;
  uint32_t zero = 0;
  uint64_t value = 0;
};
static_assert(sizeof(NcclMessageHeader) == 16);

struct NcclMessage {
  NcclSays says = NcclSays::kReady;
  uint64_t value = 0;
  FrameBytes payload;  // empty but for kId, kFrame, kTransfer and kOffer; aligned to 8
};

// InvalidArgument where it is not a message; whether it is in place is the receiver's question.
absl::StatusOr<NcclMessage> DecodeNcclMessage(FrameBytes message);

// One end of the stream: in order, nothing lost while it lasts. Thread-safe.
class NcclControl {
 public:
  struct Callbacks {
    std::function<void(FrameBytes message)> message;  // aligned to 8
    std::function<void(const absl::Status& cause)> lost;
  };
  // Closes, and waits for nothing: callbacks may still run, and are to know whether what they serve is there.
  virtual ~NcclControl() = default;
  // Once. Callbacks are called one at a time, by threads of the stream's, which may call Write and Close:
  // `message` in order, then `lost`, once, whoever ended the stream.
  virtual void Start(Callbacks callbacks) = 0;
  // Queues the message, without waiting; Unavailable after the end.
  virtual absl::Status Write(const NcclMessageHeader& header, const FramePieces& payload) = 0;
  // Waits until little of what was written is still here. Not for threads of the stream's. Unavailable after
  // the end.
  virtual absl::Status AwaitRoom() = 0;
  virtual void Close(const absl::Status& cause) = 0;
};

inline absl::Status Say(NcclControl* control, NcclSays says, uint64_t value = 0,
                        const FramePieces& payload = std::span<const uint8_t>()) {
  return control->Write({says, 0, value}, payload);
}

}  // namespace moepool
