// NCCL for a process: its library, opened at run time, and the GPU that the backend computes on.
#pragma once

#include <memory>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/transport/nccl_queue.h"

namespace moepool {

// `backend` is Backend::Name(), `device` the GPU's number. A status says why this process has no NCCL:
// another backend than cuda, which moves nothing through a GPU; no library, or an old one; a GPU that cannot
// be used.
absl::StatusOr<std::shared_ptr<NcclQueue>> OpenNcclQueue(std::string_view backend, int device);

}  // namespace moepool
