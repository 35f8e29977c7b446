// The launches that measure what a device gives at most, which kernels are compared with.
#pragma once

#include <cstdint>

namespace moepool {

// *sum += all 32-bit words of the data, each read once.
struct ReadProbeArgs {
  const uint8_t* data = nullptr;  // aligned to 16
  int64_t vectors = 0;            // of 16 bytes
  int32_t blocks = 1;
  int32_t* sum = nullptr;
};

// Matrix products of ones: *sum += kMultiplyProbeSum for each block and round.
struct MultiplyProbeArgs {
  int32_t rounds = 0;
  int32_t blocks = 1;
  int32_t* sum = nullptr;
};
inline constexpr int kProbeThreads = 256;  // a block
inline constexpr int kProbeProducts = 8;   // of a warp and round, each [16, 32] by [32, 8]
inline constexpr int64_t kMultiplyProbeOps =
    int64_t{2} * kProbeThreads / 32 * kProbeProducts * 16 * 32 * 8;  // of a block and round
inline constexpr int64_t kMultiplyProbeSum = kMultiplyProbeOps / 2;

struct ProbeKernels {
  void (*read)(const ReadProbeArgs& args, void* stream) = nullptr;
  void (*multiply)(const MultiplyProbeArgs& args, void* stream) = nullptr;
};

}  // namespace moepool
