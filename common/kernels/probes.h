// Loops that do one thing and nothing else, in the instructions of one table of kernels: what they reach is
// what the machine gives, and products are measured against it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/kernels/kernels.h"

namespace moepool {

struct Probes {
  // Reads `streams` runs of `run_bytes` (a multiple of 256) that follow one another from p, side by side,
  // each line asked for `ahead_bytes` before (0: left to the hardware).
  void (*read)(const std::byte* p, int64_t run_bytes, int streams, int64_t ahead_bytes);
  // `rounds` times a few independent multiplications with additions, of int8 and of f32. Return how many
  // operations that was.
  double (*dot)(int64_t rounds);
  double (*fma)(int64_t rounds);
};

const Probes& ProbesFor(const KernelTable& kernels);

}  // namespace moepool
