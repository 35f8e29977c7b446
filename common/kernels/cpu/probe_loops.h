// The loops of probes.h over a type of registers (anonymous namespace, as generic.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace moepool {
namespace {

constexpr int kProbeChains = 12;  // hide a latency of 4 to 6 at 2 a cycle

// acc = step(acc) in each of the chains, `rounds` times. The empty assembly keeps what nobody reads.
template <typename Register, typename Step>
inline void ProbeChains(int64_t rounds, Register first, const Step& step) {
  Register acc[kProbeChains];
#pragma GCC unroll 16
  for (int i = 0; i < kProbeChains; ++i) acc[i] = first;
  for (int64_t n = 0; n < rounds; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kProbeChains; ++i) {
      acc[i] = step(acc[i]);
      __asm__ volatile("" : "+x"(acc[i]));
    }
  }
}

// load(p) reads 256 bytes.
template <typename Load>
inline void ProbeRead(const std::byte* p, int64_t run_bytes, int streams, int64_t ahead_bytes,
                      const Load& load) {
  for (int64_t at = 0; at < run_bytes; at += 256) {
    for (int s = 0; s < streams; ++s) {
      const std::byte* const from = p + s * run_bytes + at;
      if (ahead_bytes > 0) {
        for (int i = 0; i < 256; i += 64) __builtin_prefetch(from + ahead_bytes + i);
      }
      load(from);
    }
  }
}

}  // namespace
}  // namespace moepool
