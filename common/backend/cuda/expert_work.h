// What the ways of running experts on a GPU have in common: how pairs are cut, and where h lies.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/backend/cuda/cuda_context.h"
#include "common/base/rounding.h"
#include "common/kernels/cuda/cuda_kernels.h"
#include "common/kernels/kernels.h"

namespace moepool {

inline constexpr int32_t kFewPairs = 8;    // of an expert: one tile of the kernels' columns
inline constexpr int32_t kManyPairs = 32;  // that share a reading of the weights
// Pairs of an expert, on average, up to which its weights may be read for each anew.
inline constexpr size_t kPairsReadAgain = 2;

inline bool Plain(const DeviceWeights& w) { return !Info(w.dtype).quantized; }

// Of h of all pairs in its three forms, after the pairs' faults; then of what h is made of.
struct HiddenPlaces {
  HiddenPlaces(size_t pairs, size_t padded)
      : q(RoundUp<size_t>(pairs, 256)),
        scale(q + RoundUp<size_t>(pairs * padded, 256)),
        f32(scale + RoundUp<size_t>(pairs * padded / kQuantBlock * sizeof(float), 256)),
        gate(f32 + pairs * padded * sizeof(float)),
        up(gate + pairs * padded * sizeof(float)),
        bytes(up + pairs * padded * sizeof(float)) {}
  // With what is written to memory: `plain`, h in f32; not `fused`, all.
  size_t Bytes(bool plain, bool fused) const { return !fused ? bytes : plain ? gate : f32; }
  size_t q;
  size_t scale;
  size_t f32;
  size_t gate;
  size_t up;
  size_t bytes;
};

// Takes memory for h of `pairs` pairs and clears their faults.
inline void PlaceHidden(CudaContext* context, size_t pairs, bool plain, DeviceScratch* scratch,
                        ExpertsArgs* args) {
  const HiddenPlaces places(pairs, static_cast<size_t>(args->padded));
  std::byte* const base = scratch->Get(places.Bytes(plain, context->fused()));
  args->pair_fault = reinterpret_cast<uint8_t*>(base);
  args->h = {reinterpret_cast<float*>(base + places.f32), reinterpret_cast<int8_t*>(base + places.q),
             reinterpret_cast<float*>(base + places.scale)};
  args->gate_sums = reinterpret_cast<float*>(base + places.gate);
  args->up_sums = reinterpret_cast<float*>(base + places.up);
  context->device().Zero(args->pair_fault, pairs);
}

// The launch of h.
inline auto HiddenKernel(const CudaContext& context) {
  return context.fused() ? context.kernels().expert_hidden : context.kernels().expert_hidden_apart;
}

}  // namespace moepool
