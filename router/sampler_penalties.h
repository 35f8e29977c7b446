// What changes logits before the temperature does: steps 1 to 5 of Sample.
#pragma once

#include <span>

#include "absl/status/status.h"
#include "common/trunk/trunk.h"
#include "router/sampler.h"

namespace moepool {

// Takes time in the number of ids looked at, none where no parameter asks for anything. A finite logit stays
// finite, but for those left out. Internal where an id lies outside the vocabulary.
absl::Status AdjustLogits(const SamplingParams& params, const SampleContext& context,
                          std::span<float> logits);

// Whether it leaves all logits as they are.
bool AdjustsNothing(const SamplingParams& params, const SampleContext& context);

}  // namespace moepool
