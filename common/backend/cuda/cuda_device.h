// The device behind the CUDA backend where it is a GPU: device.h over the CUDA runtime. No CUDA header, so
// that the factory needs none.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "common/backend/cuda/device.h"

namespace moepool {

// The GPU that CUDA counts as `ordinal`, of those that CUDA_VISIBLE_DEVICES leaves.
//   FailedPrecondition: no driver, one too old for this build, no GPU, or one of compute capability below 8.0
//   InvalidArgument: there are GPUs, but fewer
//   Unavailable: the GPU is there and does not let itself be used, as one that is another process's alone
absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(int ordinal);

}  // namespace moepool
