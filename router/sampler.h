// Logits to an id. A pure function of its arguments: the random number of output i depends on (seed, i)
// alone, so that a sequence can be taken up again anywhere.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/trunk/trunk.h"

namespace moepool {

// Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1), 53 bits: Philox 4x32-10 with key `seed` and counter `index`.
double CounterUniform(uint64_t seed, uint64_t index);

struct SampledToken {
  int32_t id = -1;
};

// Picks the id of output `index`. prompt and generated are the sequence so far; logits [vocab] is
// overwritten.
//   1. Repetition penalty, once for each id of prompt or generated: x/r where x > 0, otherwise x*r.
//   2. x - frequency_penalty * (times generated) - presence_penalty (if generated at all).
//   3. Temperature; 0 takes the largest logit and ends here.
//   4. top_k best; then the fewest best of these that hold top_p of their probability, at least one; then
//      those with at least min_p of the largest probability.
//   5. One of the rest, by its share of their probability.
// The better of two is the one with the larger logit, or the lower id where these are equal. Parameters are
// as ValidateSampling leaves them. Internal where a logit is NaN or +inf, none is finite, or an id lies
// outside the vocabulary.
absl::StatusOr<SampledToken> Sample(const SamplingParams& params, std::span<const int32_t> prompt,
                                    std::span<const int32_t> generated, uint64_t index,
                                    std::span<float> logits);

}  // namespace moepool
