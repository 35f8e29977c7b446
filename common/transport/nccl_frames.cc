#include "common/transport/nccl_frames.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/transport/frame.h"
#include "common/transport/nccl_control.h"

namespace moepool {

absl::StatusOr<NcclArrival> ExpectNcclFrame(NcclQueue* queue, FrameBytes head, size_t bytes) {
  const size_t before = head.bytes.size();
  if (before > 0) {
    if (absl::Status read = DecodeHeader(head.bytes, bytes).status(); !read.ok()) return read;
  }
  const bool stays = before > 0 && queue->options().keeps_on_device;
  std::shared_ptr<const NcclBuffer> buffer;
  MOEPOOL_ASSIGN_OR_RETURN(buffer, queue->staging().Take(stays ? bytes : before + bytes, !stays));
  NcclArrival arrival;
  arrival.transfer = {buffer, bytes};
  if (stays) {
    arrival.frame.bytes = head.bytes;
    arrival.frame.device = {buffer->device, bytes};
    arrival.frame.owner = std::make_shared<const std::pair<FrameBytes, std::shared_ptr<const NcclBuffer>>>(
        std::move(head), std::move(buffer));
    return arrival;
  }
  std::copy(head.bytes.begin(), head.bytes.end(), buffer->host);
  arrival.transfer.host = buffer->host + before;
  arrival.frame.bytes = {buffer->host, before + bytes};
  arrival.frame.owner = std::move(buffer);
  return arrival;
}

absl::StatusOr<DeviceBytes> TakeNcclMemory(NcclQueue* queue, size_t head_bytes, size_t bytes, size_t most) {
  if (head_bytes > kMaxNcclHeadBytes || bytes > most || head_bytes > most - bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("a frame of ", head_bytes, " and ", bytes,
                                                     " bytes, limits ", kMaxNcclHeadBytes, " and ", most));
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::shared_ptr<const NcclBuffer> buffer,
                           queue->staging().Take(bytes, /*with_host=*/false));
  return DeviceBytes{buffer->device, bytes, buffer};
}

}  // namespace moepool
