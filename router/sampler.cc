// See sampler.h. The vocabulary is never sorted: partial selection finds the last candidate to keep, the
// others become -inf in place, and sums run in order of id, so that no library's element order shows in the
// result.
#include "router/sampler.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/math.h"
#include "common/base/status_macros.h"
#include "router/sampler_penalties.h"

namespace moepool {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  int32_t id;
};

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The largest of a run of logits in 16 lanes, which the compiler makes vectors; NaN where one is NaN or +inf.
constexpr size_t kRun = 256;
float MaximumOfRun(const float* logits) {
  constexpr size_t kLanes = 16;
  float most[kLanes];
  int invalid[kLanes] = {};
  for (size_t lane = 0; lane < kLanes; ++lane) most[lane] = -kInf;
  for (size_t i = 0; i < kRun; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      most[lane] = x > most[lane] ? x : most[lane];
      invalid[lane] |= x < kInf ? 0 : 1;  // NaN too
    }
  }
  float best = -kInf;
  int any_invalid = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) {
    best = std::max(best, most[lane]);
    any_invalid |= invalid[lane];
  }
  return any_invalid != 0 ? std::numeric_limits<float>::quiet_NaN() : best;
}

// The best candidate: the mode, and what the others are measured against.
absl::StatusOr<Candidate> Best(std::span<const float> logits) {
  Candidate best{-kInf, -1};
  const auto look = [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) {
      if (logits[i] > best.logit) best = {logits[i], static_cast<int32_t>(i)};
    }
  };
  bool valid = true;
  size_t i = 0;
  for (; i + kRun <= logits.size(); i += kRun) {
    const float maximum = MaximumOfRun(&logits[i]);
    valid = valid && maximum < kInf;
    if (maximum > best.logit) look(i, i + kRun);
  }
  for (const float x : logits.subspan(i)) valid = valid && x < kInf;
  look(i, logits.size());
  if (!valid) {
    const auto bad = std::find_if(logits.begin(), logits.end(), [](float x) { return !(x < kInf); });
    return absl::InternalError(absl::StrCat("logit of token ", bad - logits.begin(), " is ", *bad));
  }
  if (best.id < 0) return absl::InternalError(absl::StrCat("none of ", logits.size(), " logits is finite"));
  return best;
}

// The k best, or all where there are fewer, in no order. One pass that keeps at most 2k: a list of the whole
// vocabulary would cost ten times as much as the comparisons.
std::vector<Candidate> SelectBest(size_t k, std::span<const float> logits) {
  k = std::min(k, logits.size());
  std::vector<Candidate> kept;
  kept.reserve(2 * k);
  const auto shrink = [&] {
    std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), Better);
    kept.resize(k);
  };
  float bar = -kInf;  // the k-th best so far; an equal logit further on has a higher id and loses
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!(logits[i] > bar)) continue;
    kept.push_back({logits[i], static_cast<int32_t>(i)});
    if (kept.size() < 2 * k) continue;
    shrink();
    bar = kept.back().logit;
  }
  if (kept.size() > k) shrink();
  return kept;
}

void DropWorseThan(const Candidate& last, std::span<float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (Better(last, {logits[i], static_cast<int32_t>(i)})) logits[i] = -kInf;
  }
}

// Probabilities up to a common factor: 1 for the best.
class Softmax {
 public:
  Softmax(float best, double temperature) : best_(best), temperature_(temperature) {}
  double Weight(float logit) const {
    // The difference is taken first: at a temperature of 1e-6 the quotients alone would overflow.
    return Exp(static_cast<float>((static_cast<double>(logit) - best_) / temperature_));
  }

 private:
  double best_;
  double temperature_;
};

// ln of the softmax. The sum is in f64 and in order of id.
class LogSoftmax {
 public:
  static absl::StatusOr<LogSoftmax> Of(std::span<const float> logits) {
    MOEPOOL_ASSIGN_OR_RETURN(const Candidate best, Best(logits));
    const Softmax softmax(best.logit, /*temperature=*/1);
    double total = 0;  // at least 1, the best one's share
    for (const float x : logits) total += softmax.Weight(x);
    return LogSoftmax(best.logit + static_cast<double>(Log(static_cast<float>(total))));
  }
  float operator()(float logit) const { return static_cast<float>(logit - log_total_); }

 private:
  explicit LogSoftmax(double log_total) : log_total_(log_total) {}
  double log_total_;
};

void KeepTopK(int32_t k, std::span<float> logits) {
  const std::vector<Candidate> best = SelectBest(k, logits);
  DropWorseThan(*std::max_element(best.begin(), best.end(), Better), logits);
}

void KeepTopP(double p, const Softmax& softmax, std::span<float> logits) {
  double total = 0;
  for (float x : logits) {
    if (x > -kInf) total += softmax.Weight(x);
  }
  // Ever more of the best are put in order until they hold p; the first 64 nearly always do.
  for (size_t k = 64;; k *= 8) {
    std::vector<Candidate> best = SelectBest(k, logits);
    std::sort(best.begin(), best.end(), Better);
    double reached = 0;
    for (const Candidate& candidate : best) {
      reached += softmax.Weight(candidate.logit);
      if (reached >= p * total) return DropWorseThan(candidate, logits);
    }
    if (best.size() < k)
      return;  // sums in another order may miss p * total by a rounding where p is all but 1
  }
}

// Steps 1 to 8 of Sample.
absl::StatusOr<int32_t> Pick(const SamplingParams& params, const SampleContext& context,
                             std::span<float> logits) {
  if (context.forced_id >= 0) return context.forced_id;
  MOEPOOL_RETURN_IF_ERROR(AdjustLogits(params, context, logits));
  MOEPOOL_ASSIGN_OR_RETURN(const Candidate best, Best(logits));
  if (params.temperature == 0) return best.id;

  const Softmax softmax(best.logit, params.temperature);
  if (params.top_k > 0) KeepTopK(params.top_k, logits);
  if (params.top_p < 1) KeepTopP(params.top_p, softmax, logits);
  double total = 0;
  for (float& x : logits) {
    if (x == -kInf) {
      x = 0;
      continue;
    }
    const double weight = softmax.Weight(x);
    x = weight >= params.min_p ? static_cast<float>(weight) : 0;
    total += x;
  }
  const double target = CounterUniform(params.seed, context.index) * total;
  double sum = 0;
  int32_t last = best.id;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] == 0) continue;
    last = static_cast<int32_t>(i);
    sum += logits[i];
    if (sum > target) return last;
  }
  return last;  // where the product above rounded up to `total`
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

double CounterUniform(uint64_t seed, uint64_t index) {
  const std::array<uint32_t, 4> random =
      Philox4x32({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{random[1]} << 32 | random[0]) >> 11;
  return static_cast<double>(bits) * 0x1p-53;
}

absl::StatusOr<TokenLogprobs> LogprobsOf(std::span<const float> logits, int32_t id, int32_t top) {
  MOEPOOL_ASSIGN_OR_RETURN(const LogSoftmax log_softmax, LogSoftmax::Of(logits));
  TokenLogprobs logprobs{log_softmax(logits[static_cast<size_t>(id)]), {}};
  if (top == 0) return logprobs;
  std::vector<Candidate> best = SelectBest(static_cast<size_t>(top), logits);
  std::sort(best.begin(), best.end(), Better);
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
