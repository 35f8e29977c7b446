// Probes with AVX-512.
#include <immintrin.h>

#include "common/kernels/cpu/probe_loops.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

void Read(const std::byte* p, int64_t run_bytes, int streams, int64_t ahead_bytes) {
  ProbeRead(p, run_bytes, streams, ahead_bytes, [](const std::byte* from) {
    for (int i = 0; i < 256; i += 64) {
      const __m512i loaded = _mm512_loadu_si512(from + i);
      __asm__ volatile("" : : "v"(loaded));
    }
  });
}

__attribute__((target("avx512vnni"))) double VnniDot(int64_t rounds) {
  const __m512i a = _mm512_set1_epi8(3);
  __m512i acc[kProbeChains] = {};
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kProbeChains; ++i) {
      acc[i] = _mm512_dpbusd_epi32(acc[i], a, a);
      __asm__ volatile("" : "+v"(acc[i]));
    }
  }
  return 128.0 * kProbeChains * static_cast<double>(rounds);
}

double Fma(int64_t rounds) {
  const __m512 a = _mm512_set1_ps(0.5f);
  ProbeChains(rounds, a, [a](__m512 acc) { return _mm512_fmadd_ps(acc, a, a); });
  return 32.0 * kProbeChains * static_cast<double>(rounds);
}

}  // namespace

constexpr Probes kAvx512Probes = {Read, Avx2Dot, Fma};
constexpr Probes kAvx512VnniProbes = {Read, VnniDot, Fma};

}  // namespace moepool
