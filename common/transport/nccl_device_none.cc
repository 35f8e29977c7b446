// nccl_device.h in a build without CUDA.
#include "common/transport/nccl_device.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<NcclDevice>> MakeCudaNcclDevice(int) {
  return absl::UnimplementedError("this build is without CUDA");
}

}  // namespace moepool
