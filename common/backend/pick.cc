// See pick.h. The vocabulary is never sorted: partial selection finds the candidates where not all are kept.
#include "common/backend/pick.h"

#include <algorithm>
#include <limits>

#include "common/base/math.h"

namespace moepool {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr size_t kRun = 256;  // logits looked at together

// The largest of a run of logits in 16 lanes, which the compiler makes vectors; NaN where one is NaN or +inf.
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

using Wide = unsigned __int128;

uint64_t FractionBelow(uint64_t fraction, uint64_t total) {
  return static_cast<uint64_t>(Wide{fraction} * total >> 64);
}
uint64_t FractionAbove(uint64_t fraction, uint64_t total) {
  return static_cast<uint64_t>((Wide{fraction} * total + std::numeric_limits<uint64_t>::max()) >> 64);
}

class Shares {
 public:
  Shares(float best, const PickParams& params)
      : best_(best), temperature_(params.temperature), min_p_(params.min_p) {}
  uint64_t Of(float logit) const { return InUnits(Weight(logit)); }
  // 0 where the weight is less than min_p.
  uint64_t Kept(float logit) const {
    const float weight = Weight(logit);
    return weight >= min_p_ ? InUnits(weight) : 0;
  }

 private:
  // The difference comes first: the quotients alone would overflow at low temperatures.
  float Weight(float logit) const { return Exp((logit - best_) / temperature_); }
  static uint64_t InUnits(float weight) { return static_cast<uint64_t>(weight * kShareOfBest); }

  float best_;
  float temperature_;
  float min_p_;
};

// Steps 1 and 2 of PickParams, at least one of which leaves something out; in order of id.
std::vector<Candidate> KeepBest(const PickParams& params, const Shares& shares,
                                std::span<const float> logits) {
  const bool top_k = params.top_k > 0;
  std::vector<Candidate> kept;
  uint64_t total = 0;
  if (top_k) {
    kept = SelectBest(static_cast<size_t>(params.top_k), logits);
    for (const Candidate& candidate : kept) total += shares.Of(candidate.logit);
  } else {
    for (const float x : logits) total += shares.Of(x);
  }
  if (params.top_p > 0) {
    const uint64_t enough = FractionAbove(params.top_p, total);
    // Ever more of the best are put in order until they have enough; the first 64 nearly always do.
    for (size_t k = 64;; k *= 8) {
      if (!top_k) kept = SelectBest(k, logits);
      std::sort(kept.begin(), kept.end(), IsBetter);
      uint64_t reached = 0;
      const auto last = std::find_if(kept.begin(), kept.end(), [&](const Candidate& candidate) {
        reached += shares.Of(candidate.logit);
        return reached >= enough;
      });
      if (last == kept.end()) continue;
      kept.erase(last + 1, kept.end());
      break;
    }
  }
  std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
  return kept;
}

// Step 4.
int32_t PickAmong(std::span<const Candidate> kept, const Shares& shares, uint64_t random) {
  uint64_t total = 0;
  for (const Candidate& candidate : kept) total += shares.Kept(candidate.logit);
  uint64_t left = FractionBelow(random, total);
  for (const Candidate& candidate : kept) {
    const uint64_t share = shares.Kept(candidate.logit);
    if (left < share) return candidate.id;
    left -= share;
  }
  return -1;  // not reached: the shares sum up to more than their fraction
}

int32_t PickAmongAll(std::span<const float> logits, const Shares& shares, uint64_t random) {
  std::vector<uint64_t> sums;  // of runs
  sums.reserve(logits.size() / kRun + 1);
  uint64_t total = 0;
  for (size_t begin = 0; begin < logits.size(); begin += kRun) {
    uint64_t sum = 0;
    for (const float x : logits.subspan(begin, std::min(kRun, logits.size() - begin))) sum += shares.Kept(x);
    sums.push_back(sum);
    total += sum;
  }
  uint64_t left = FractionBelow(random, total);
  size_t run = 0;
  while (left >= sums[run]) left -= sums[run++];
  for (size_t i = run * kRun;; ++i) {
    const uint64_t share = shares.Kept(logits[i]);
    if (left < share) return static_cast<int32_t>(i);
    left -= share;
  }
}

}  // namespace

std::optional<Candidate> BestOf(std::span<const float> logits) {
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
  if (!valid || best.id < 0) return std::nullopt;
  return best;
}

// One pass that keeps at most 2k: a list of the whole vocabulary would cost ten times as much as the
// comparisons.
std::vector<Candidate> SelectBest(size_t k, std::span<const float> logits) {
  k = std::min(k, logits.size());
  std::vector<Candidate> kept;
  kept.reserve(2 * k);
  const auto shrink = [&] {
    std::nth_element(kept.begin(), kept.begin() + (k - 1), kept.end(), IsBetter);
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

int32_t PickId(const PickParams& params, std::span<const float> logits) {
  const std::optional<Candidate> best = BestOf(logits);
  if (!best.has_value()) return -1;
  if (params.temperature == 0) return best->id;
  const Shares shares(best->logit, params);
  if (params.top_k == 0 && params.top_p == 0) return PickAmongAll(logits, shares, params.random);
  return PickAmong(KeepBest(params, shares, logits), shares, params.random);
}

}  // namespace moepool
