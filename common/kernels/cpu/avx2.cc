// The AVX2 table. This build has scalar kernels alone.
#include "common/kernels/kernels.h"

namespace moepool {

const KernelTable* Avx2Kernels() { return nullptr; }

}  // namespace moepool
