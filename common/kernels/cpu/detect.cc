// What the processor and the operating system offer. Compiled for the baseline, as is all that runs before
// the answer.
#include "common/kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

bool HasAvx2FmaF16c() {
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kWanted = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((c & kWanted) != kWanted) return false;
  unsigned low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6) return false;  // the system saves XMM and YMM state
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_AVX2) != 0;
}

}  // namespace

const KernelTable* Avx2Kernels() {
  static const bool available = HasAvx2FmaF16c();
  return available ? &kAvx2Table : nullptr;
}

}  // namespace moepool

#else

namespace moepool {
const KernelTable* Avx2Kernels() { return nullptr; }
}  // namespace moepool

#endif
