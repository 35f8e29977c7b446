// Whether a device computes what the CPU does. Run at each start, as a driver, a compiler or a card that
// rounds otherwise would show in tokens alone.
#pragma once

#include "absl/status/status.h"
#include "common/backend/backend.h"

namespace moepool {

// Small inputs through every operation and weight type, and through segments that are recorded, against the
// CPU's scalar kernels, bit by bit. FailedPrecondition names the operation, the place and both values.
absl::Status CheckBits(Backend* backend);

}  // namespace moepool
