// A GPU's figures as messages.
#pragma once

#include "common/base/gpu_reading.h"
#include "proto/gpu.pb.h"

namespace moepool {

void ToProto(const GpuReading& reading, gpu::v1::Gpu* proto);

// A peer's words: names are cut to 96 bytes, and figures out of their range are left out.
GpuReading FromProto(const gpu::v1::Gpu& proto);

}  // namespace moepool
