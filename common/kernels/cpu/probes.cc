// Probes in plain C++, and which belong to which table.
#include "common/kernels/probes.h"

#include "common/kernels/cpu/probe_loops.h"
#if defined(__x86_64__)
#include "common/kernels/cpu/tables.h"
#endif

namespace moepool {
namespace {

void Read(const std::byte* p, int64_t run_bytes, int streams, int64_t ahead_bytes) {
  ProbeRead(p, run_bytes, streams, ahead_bytes, [](const std::byte* from) {
    for (int i = 0; i < 256; i += 8) {
      const uint64_t loaded = *reinterpret_cast<const volatile uint64_t*>(from + i);
      __asm__ volatile("" : : "r"(loaded));
    }
  });
}

template <typename Number>
double MultiplyAdd(int64_t rounds) {
  Number acc[kProbeChains] = {};
  for (int64_t n = 0; n < rounds; ++n) {
    for (Number& a : acc) a = a * Number{3} + Number{1};
    __asm__ volatile("" : : "r"(acc) : "memory");
  }
  return 2.0 * kProbeChains * static_cast<double>(rounds);
}

constexpr Probes kScalarProbes = {Read, MultiplyAdd<uint32_t>, MultiplyAdd<float>};

}  // namespace

const Probes& ProbesFor([[maybe_unused]] const KernelTable& kernels) {
#if defined(__x86_64__)
  if (&kernels == Avx512VnniKernels()) return kAvx512VnniProbes;
  if (&kernels == Avx512Kernels()) return kAvx512Probes;
  if (&kernels == Avx2Kernels()) return kAvx2Probes;
#endif
  return kScalarProbes;
}

}  // namespace moepool
