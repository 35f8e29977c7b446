// One id out of a row of logits: what TrunkOps::Pick computes, on the CPU and as the reference of other
// devices. Sums are of integers, so that they may be taken in any order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace moepool {

// The better of two ids has the larger logit, or is the lower one where these are equal. The weight of logit
// x is e^((x - best logit) / temperature), in f32; its share is floor(weight * kShareOfBest).
//   1. The top_k best are kept.
//   2. Of these the fewest best whose shares reach ceil(top_p * sum of shares / 2^64).
//   3. Of these the ones whose weight is at least min_p.
//   4. Picked is the first, in order of id, with which the sum of shares exceeds
//      floor(random * sum of shares / 2^64).
struct PickParams {
  float temperature = 0;  // 0: the best, and nothing below matters; otherwise a normal number
  int32_t top_k = 0;      // 0: all
  uint64_t top_p = 0;     // in units of 2^-64; 0: all
  float min_p = 0;        // [0, 1]
  uint64_t random = 0;    // of all 64 bits
};

inline constexpr float kShareOfBest = 0x1p39f;  // 2^24 of them, more than a vocabulary has, fit 64 bits

struct Candidate {
  float logit;
  int32_t id;
};

inline bool IsBetter(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// Null where a logit is NaN or +inf, or none is finite.
std::optional<Candidate> BestOf(std::span<const float> logits);

// The k best of those that are not -inf, or all where there are fewer, in no order.
std::vector<Candidate> SelectBest(size_t k, std::span<const float> logits);

// -1 where BestOf is null.
int32_t PickId(const PickParams& params, std::span<const float> logits);

}  // namespace moepool
