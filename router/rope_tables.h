// Rotary angles: the frequencies of each set of factors, computed once, and cos and sin of a position.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "common/model/config.h"

namespace moepool {

class RopeTables {
 public:
  RopeTables() = default;
  explicit RopeTables(const RopeConfig& rope);
  size_t pairs() const { return sets_[0].frequency.size(); }
  // cos, sin [pairs]: of position * frequency, times the set's scale.
  void Fill(int32_t position, RopeSet set, float* cos, float* sin) const;

 private:
  struct Set {
    std::vector<double> frequency;  // [pairs] radians a position
    double scale = 1;
  };
  std::array<Set, 2> sets_;  // by RopeSet; both alike where the model has one
};

}  // namespace moepool
