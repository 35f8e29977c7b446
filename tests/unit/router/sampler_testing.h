// Shorthand for calls of the sampler.
#pragma once

#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "router/sampler.h"

namespace moepool {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

inline absl::StatusOr<int32_t> Pick(const SamplingParams& params, std::vector<float> logits,
                                    uint64_t index = 0, const std::vector<int32_t>& prompt = {},
                                    const std::vector<int32_t>& generated = {},
                                    const std::vector<int32_t>& stop_ids = {}) {
  const auto sampled = Sample(params, {prompt, generated, stop_ids, index}, std::span<float>(logits));
  if (!sampled.ok()) return sampled.status();
  return sampled->id;
}

// The logits that all before the temperature leaves, seen through a greedy call, which overwrites them in
// place and goes no further.
inline std::vector<float> Penalised(const SamplingParams& params, std::vector<float> logits,
                                    const std::vector<int32_t>& prompt, const std::vector<int32_t>& generated,
                                    const std::vector<int32_t>& stop_ids = {}) {
  EXPECT_TRUE(Sample(params, {prompt, generated, stop_ids}, std::span<float>(logits)).ok());
  return logits;
}

}  // namespace moepool
