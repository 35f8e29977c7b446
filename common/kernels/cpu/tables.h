// Tables of the instruction-set files, for detect.cc alone: nothing may call into one before its check.
#pragma once

#include "common/kernels/kernels.h"

namespace moepool {

extern const KernelTable kAvx2Table;

}  // namespace moepool
