// Rows of logits and ways to pick from them that an implementation of TrunkOps::Pick could get wrong.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "common/backend/pick.h"

namespace moepool {

struct PickCase {
  std::vector<float> logits;
  std::vector<PickParams> params;
};

inline std::vector<std::vector<float>> PickLogits(size_t vocab, std::mt19937_64* rng) {
  using Limits = std::numeric_limits<float>;
  constexpr float inf = Limits::infinity();
  std::normal_distribution<float> normal(0, 3);
  const auto any = [&] { return static_cast<size_t>((*rng)() % vocab); };
  std::vector<float> spread(vocab);
  for (float& x : spread) x = normal(*rng);
  std::vector<float> few(vocab);
  for (float& x : few) x = static_cast<float>((*rng)() % 3) - 1;
  std::vector<float> zeros(vocab);  // of both signs
  for (float& x : zeros) x = (*rng)() % 2 == 0 ? 0.0f : -0.0f;
  std::vector<float> one(vocab, -inf);
  one[any()] = -1e30f;
  std::vector<float> masked = spread;
  for (float& x : masked) x = (*rng)() % 4 == 0 ? x : -inf;
  masked[any()] = 0;
  std::vector<float> peaked = spread;
  peaked[any()] = 60;
  std::vector<float> extreme(vocab);
  for (float& x : extreme) {
    const float values[] = {Limits::max(),
                            -Limits::max(),
                            Limits::denorm_min(),
                            -Limits::denorm_min(),
                            Limits::min(),
                            0.0f,
                            -0.0f,
                            -inf};
    x = values[(*rng)() % std::size(values)];
  }
  extreme[any()] = 1;
  std::vector<float> nan = spread;
  nan[any()] = Limits::quiet_NaN();
  std::vector<float> negative_nan = spread;
  negative_nan[any()] = -Limits::quiet_NaN();
  std::vector<float> infinite = spread;
  infinite[any()] = inf;
  return {spread, few,     std::vector<float>(vocab, 7.5f), zeros,        one,      masked,
          peaked, extreme, std::vector<float>(vocab, -inf), negative_nan, infinite, nan};
}

inline std::vector<PickCase> PickCases(uint64_t seed) {
  using Limits = std::numeric_limits<float>;
  std::mt19937_64 rng(seed);
  const auto of = [&](const auto& values) { return values[rng() % std::size(values)]; };
  std::vector<PickCase> cases;
  for (const size_t vocab : {1, 2, 31, 513, 4099}) {
    for (std::vector<float>& logits : PickLogits(vocab, &rng)) {
      PickCase& c = cases.emplace_back();
      c.logits = std::move(logits);
      c.params.emplace_back();
      for (int i = 0; i < 10; ++i) {
        const float temperatures[] = {1.0f, 0.7f, 0.01f, 20.0f, Limits::min(), Limits::max()};
        const int32_t top_ks[] = {0,
                                  0,
                                  1,
                                  7,
                                  static_cast<int32_t>(vocab),
                                  static_cast<int32_t>(vocab) + 9,
                                  Limits::digits,
                                  std::numeric_limits<int32_t>::max()};
        const uint64_t half = uint64_t{1} << 63;
        const uint64_t top_ps[] = {
            0, 0, 1, half, half + half / 2, half + half / 4 * 3, -uint64_t{2048}, -uint64_t{1}};
        const float min_ps[] = {0, 0, 0.1f, 1};
        const uint64_t randoms[] = {0, -uint64_t{1}, rng(), rng(), rng(), rng()};
        c.params.push_back({of(temperatures), of(top_ks), of(top_ps), of(min_ps), of(randoms)});
      }
    }
  }
  return cases;
}

}  // namespace moepool
