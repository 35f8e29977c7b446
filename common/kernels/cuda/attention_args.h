// The launches of the attention kernels. Arithmetic and layout of the cache: kernels.h and backend.h.
#pragma once

#include <cstdint>

#include "common/backend/backend.h"

namespace moepool {

struct AttentionKernels {};

}  // namespace moepool
