// See sampler.h; common/backend/pick.h has what comes after the logits are adjusted.
#include "router/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/backend/pick.h"
#include "common/base/math.h"
#include "common/base/status_macros.h"
#include "router/sampler_penalties.h"

namespace moepool {
namespace {

// Why BestOf has none.
absl::Status NotUsable(std::span<const float> logits) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < kInf); });
  if (bad == logits.end()) {
    return absl::InternalError(absl::StrCat("none of ", logits.size(), " logits is finite"));
  }
  return absl::InternalError(absl::StrCat("logit of token ", bad - logits.begin(), " is ", *bad));
}

// ln of the softmax. The sum is in f64 and in order of id.
class LogSoftmax {
 public:
  static absl::StatusOr<LogSoftmax> Of(std::span<const float> logits) {
    const std::optional<Candidate> best = BestOf(logits);
    if (!best.has_value()) return NotUsable(logits);
    double total = 0;  // at least 1, the best one's share
    for (const float x : logits) total += Exp(static_cast<float>(static_cast<double>(x) - best->logit));
    return LogSoftmax(best->logit + static_cast<double>(Log(static_cast<float>(total))));
  }
  float operator()(float logit) const { return static_cast<float>(logit - log_total_); }

 private:
  explicit LogSoftmax(double log_total) : log_total_(log_total) {}
  double log_total_;
};

// Steps 1 to 8 of Sample.
absl::StatusOr<int32_t> Pick(const SamplingParams& params, const SampleContext& context,
                             std::span<float> logits) {
  if (context.forced_id >= 0) return context.forced_id;
  MOEPOOL_RETURN_IF_ERROR(AdjustLogits(params, context, logits));
  const int32_t id = PickId(PickParamsOf(params, context.index), logits);
  if (id < 0) return NotUsable(logits);
  return id;
}

}  // namespace

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key[0] += 0x9E3779B9;  // golden ratio
    key[1] += 0xBB67AE85;  // sqrt(3) - 1
  }
  return counter;
}

uint64_t CounterBits(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> random =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return uint64_t{random[1]} << 32 | random[0];
}

PickParams PickParamsOf(const SamplingParams& params, uint64_t index) {
  PickParams pick;
  if (params.temperature == 0) return pick;
  using Limits = std::numeric_limits<float>;
  pick.temperature = static_cast<float>(std::clamp<double>(params.temperature, Limits::min(), Limits::max()));
  pick.top_k = params.top_k;
  if (params.top_p < 1) pick.top_p = static_cast<uint64_t>(std::ceil(std::ldexp(params.top_p, 64)));
  pick.min_p = static_cast<float>(params.min_p);
  // A float is at least min_p where it is at least the next float above.
  if (pick.min_p < params.min_p) pick.min_p = std::nextafter(pick.min_p, 1.0f);
  pick.random = CounterBits(params.seed, index);
  return pick;
}

bool NeedsLogits(const SamplingParams& params, const SampleContext& context) {
  return params.logprobs || context.forced_id >= 0 || !AdjustsNothing(params, context);
}

absl::StatusOr<TokenLogprobs> LogprobsOf(std::span<const float> logits, int32_t id, int32_t top) {
  MOEPOOL_ASSIGN_OR_RETURN(const LogSoftmax log_softmax, LogSoftmax::Of(logits));
  TokenLogprobs logprobs{log_softmax(logits[static_cast<size_t>(id)]), {}};
  if (top == 0) return logprobs;
  std::vector<Candidate> best = SelectBest(static_cast<size_t>(top), logits);
  std::sort(best.begin(), best.end(), IsBetter);
  for (const Candidate& c : best) logprobs.top.push_back({c.id, log_softmax(c.logit)});
  return logprobs;
}

absl::StatusOr<SampledToken> Sample(const SamplingParams& params, const SampleContext& context,
                                    std::span<float> logits) {
  if (!params.logprobs) {
    MOEPOOL_ASSIGN_OR_RETURN(const int32_t id, Pick(params, context, logits));
    return SampledToken{id, {}};
  }
  const std::vector<float> raw(logits.begin(), logits.end());
  MOEPOOL_ASSIGN_OR_RETURN(const int32_t id, Pick(params, context, logits));
  MOEPOOL_ASSIGN_OR_RETURN(TokenLogprobs logprobs, LogprobsOf(raw, id, params.top_logprobs));
  return SampledToken{id, std::move(logprobs)};
}

}  // namespace moepool
