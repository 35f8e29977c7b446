// A frame as the message `Frame { bytes data = 1; }`, written and read without protobuf, because its copies
// are what makes large messages slow.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/transport/expert_transport.h"
#include "grpcpp/support/byte_buffer.h"

namespace moepool {

// Copies the frame once: gRPC may hold the bytes after the write has been reported.
grpc::ByteBuffer EncodeFrameMessage(const FramePieces& frame);
// Shares the buffer where the frame lies in one slice and is aligned; otherwise copies it once.
// InvalidArgument where the message is not exactly one field 1 of at most `max_frame_bytes`.
absl::StatusOr<FrameBytes> DecodeFrameMessage(const grpc::ByteBuffer& message, size_t max_frame_bytes);

}  // namespace moepool
