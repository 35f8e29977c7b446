// A GPU for suites that reach into its memory from the host, without the seam: what they allocate is
// page-locked memory of the host, which kernels reach by the same address, and each piece of work is done
// when the call that queues it returns. Kernels and stream are the GPU's own.
#pragma once

#include <memory>

#include "common/backend/cuda/device.h"

namespace moepool {

// Ends the process where there is no GPU that would do. Before any other use of CUDA in the process.
std::unique_ptr<Device> MakeVisibleDevice();

}  // namespace moepool
