// Rows of activations on the device: norms and their quantised form.
#pragma once

#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/cuda/numerics.cuh"
#include "common/kernels/cuda/simt.h"

namespace moepool {
namespace {

constexpr int kQuantColumns = 32;  // that share a scale

// Quantises the 32 values that a warp's lanes hold, one each, as KernelTable::quantize does. False in every
// lane where one is not finite.
SIMT_DEVICE bool QuantizeLanes(float x, int lane, int8_t* q, float* scale) {
  uint32_t largest = Magnitude(x);
  for (int m = 16; m > 0; m /= 2) {
    const uint32_t other = simt::ShuffleXor(simt::kAllLanes, largest, m);
    largest = other > largest ? other : largest;
  }
  const bool finite = largest < 0x7f800000u;
  const float maximum = simt::BitsFloat(largest);
  const bool zero = !finite || maximum < kSmallestMaximum;
  const float inverse = zero ? 0.0f : simt::Divide(kLargestCode, maximum);
  q[lane] = zero ? int8_t{0} : static_cast<int8_t>(RoundToCode(x * inverse));
  if (lane == 0) *scale = zero ? 0.0f : simt::Divide(maximum, kLargestCode);
  return finite;
}

// The finished value `at` of parts.
SIMT_DEVICE void KeepSum(const LeavesArgs& parts, int64_t at, float sum) {
  if (parts.out != nullptr) {
    parts.out[at] = sum;
  } else {
    parts.residual[at] += parts.shared != nullptr ? sum + parts.shared[at] : sum;
  }
}

}  // namespace
}  // namespace moepool
