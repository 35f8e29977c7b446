// Logits to an id. A pure function of its arguments: the random number of output i depends on (seed, i)
// alone, so that a sequence can be taken up again anywhere.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "absl/status/statusor.h"
#include "common/backend/pick.h"
#include "common/trunk/trunk.h"

namespace moepool {

// Philox 4x32 with ten rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 random bits: Philox 4x32-10 with key `seed` and counter `index`.
uint64_t CounterBits(uint64_t seed, uint64_t index);

// The sequence so far, as far as sampling looks at it.
struct SampleContext {
  std::span<const int32_t> prompt;
  std::span<const int32_t> generated;
  std::span<const int32_t> stop_ids;  // not sampled while fewer than min_tokens are generated
  uint64_t index = 0;                 // of the output
  // Where a constraint asks for it: one bit an id, ids without one are left out. Empty: all may come.
  std::span<const uint64_t> allowed = {};
  bool may_stop = true;    // where not, stop ids are left out, and where so, they may come without a bit
  int32_t forced_id = -1;  // is picked whatever its logit
};

struct SampledToken {
  int32_t id = -1;
  TokenLogprobs logprobs;  // where the parameters ask for them
};

// What the logits [vocab] give `id`, and the `top` most likely ids: x - max - ln(sum of e^(x - max)), the sum
// in order of id. Internal where a logit is NaN or +inf, or none is finite.
absl::StatusOr<TokenLogprobs> LogprobsOf(std::span<const float> logits, int32_t id, int32_t top);

// Steps 6 to 8 of Sample for output `index`.
PickParams PickParamsOf(const SamplingParams& params, uint64_t index);

// Whether Sample needs logits as the host has them: for log-probabilities, for its steps 1 to 5, or because
// the id is not theirs to say. Otherwise PickParamsOf says all.
bool NeedsLogits(const SamplingParams& params, const SampleContext& context);

// Picks the id of output `index`; logits [vocab] is overwritten.
//   0. LogprobsOf the logits as the model gave them, where asked for. Nothing below shows in them.
//   1. Where fewer than min_tokens ids are generated, stop ids are left out; and where a constraint holds,
//   the
//      ids that it does not allow.
//   2. Logit biases are added.
//   3. Repetition penalty, once for each id of prompt or generated: x/r where x > 0, otherwise x*r.
//   4. x - frequency_penalty * (times generated) - presence_penalty (if generated at all). With repeat_last_n
//      given, 3 and 4 both look at the last so many ids of prompt and generated.
//   5. DRY: see DryParams.
//   6. Temperature; 0 takes the largest logit and ends here.
//   7. top_k best; then the fewest best of these that hold top_p of their probability, at least one; then
//      those with at least min_p of the largest probability.
//   8. One of the rest, by its share of their probability.
// PickParams has 6 to 8 to the last bit, and says which of two is the better. Parameters are as
// ValidateSampling and ValidateSamplingIds leave them. Internal where a logit is NaN or +inf, none is finite,
// or an id lies outside the vocabulary.
absl::StatusOr<SampledToken> Sample(const SamplingParams& params, const SampleContext& context,
                                    std::span<float> logits);

}  // namespace moepool
