// Probes with AVX2.
#include <immintrin.h>

#include "common/kernels/cpu/probe_loops.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

void Read(const std::byte* p, int64_t run_bytes, int streams, int64_t ahead_bytes) {
  ProbeRead(p, run_bytes, streams, ahead_bytes, [](const std::byte* from) {
    for (int i = 0; i < 256; i += 32) {
      const __m256i loaded = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
      __asm__ volatile("" : : "x"(loaded));
    }
  });
}

double Fma(int64_t rounds) {
  const __m256 a = _mm256_set1_ps(0.5f);
  ProbeChains(rounds, a, [a](__m256 acc) { return _mm256_fmadd_ps(acc, a, a); });
  return 16.0 * kProbeChains * static_cast<double>(rounds);
}

}  // namespace

// Products of pairs and their sum in 16 bits: the two instructions of the products' inner loops.
double Avx2Dot(int64_t rounds) {
  const __m256i a = _mm256_set1_epi8(3);
  ProbeChains(rounds, a, [a](__m256i acc) { return _mm256_add_epi16(acc, _mm256_maddubs_epi16(acc, a)); });
  return 64.0 * kProbeChains * static_cast<double>(rounds);
}

constexpr Probes kAvx2Probes = {Read, Avx2Dot, Fma};

}  // namespace moepool
