// Tables of the instruction-set files, for detect.cc alone: nothing may call into one before its check. In an
// AVX-512 table null stands for the kernel of the table that it is laid over.
#pragma once

#include <cstdint>

#include "common/kernels/kernels.h"
#include "common/kernels/probes.h"

namespace moepool {

extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;      // over AVX2's
extern const KernelTable kAvx512VnniTable;  // over the two

extern const Probes kAvx2Probes;
extern const Probes kAvx512Probes;
extern const Probes kAvx512VnniProbes;
double Avx2Dot(int64_t rounds);

}  // namespace moepool
