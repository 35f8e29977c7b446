// What the ways of running experts on a GPU have in common: how pairs are cut, and where h lies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/base/rounding.h"
#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/kernels.h"

namespace moepool {

inline constexpr int32_t kFewPairs = 8;    // of an expert: one tile of the kernels' columns
inline constexpr int32_t kManyPairs = 32;  // that share a reading of the weights
// Pairs of an expert, on average, up to which its weights may be read for each anew.
inline constexpr size_t kPairsReadAgain = 2;

inline bool Plain(const DeviceWeights& w) { return !Info(w.dtype).quantized; }

// Of h of all pairs in its three forms, after the pairs' faults.
struct HiddenPlaces {
  HiddenPlaces(size_t pairs, size_t padded)
      : q(RoundUp<size_t>(pairs, 256)),
        scale(q + RoundUp<size_t>(pairs * padded, 256)),
        f32(scale + RoundUp<size_t>(pairs * padded / kQuantBlock * sizeof(float), 256)),
        bytes(f32 + pairs * padded * sizeof(float)) {}
  size_t q;
  size_t scale;
  size_t f32;
  size_t bytes;
};

}  // namespace moepool
