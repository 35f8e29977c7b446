// Logits to an id. A pure function of its arguments: the random number of output i depends on (seed, i) alone, so that a
// sequence can be taken up again anywhere.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/trunk/trunk.h"

namespace moepool {

// Uniform in [0, 1), 53 bits: Philox 4x32-10 with key `seed` and counter `index`.
double CounterUniform(uint64_t seed, uint64_t index);

// Picks the id of output `index`. Order: repetition, frequency and presence penalties; temperature; top_k; top_p; min_p.
// prompt and generated are the sequence so far. `logits` [vocab] is overwritten. Internal where a logit is NaN.
absl::StatusOr<int32_t> Sample(const SamplingParams& params, std::span<const int32_t> prompt,
                               std::span<const int32_t> generated, uint64_t index, std::span<float> logits);

}  // namespace moepool
