// Rotary angles against libm, and which set of factors and which scale a sequence gets.
#include "router/rope_tables.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moepool {
namespace {

RopeConfig Config() {
  RopeConfig rope;
  rope.dims = 6;
  rope.base = 1e6;
  return rope;
}

struct Angles {
  float cos[3];
  float sin[3];
};
Angles Fill(const RopeConfig& rope, int32_t position, RopeSet set) {
  const RopeTables tables(rope);
  EXPECT_EQ(tables.pairs(), 3u);
  Angles angles;
  tables.Fill(position, set, angles.cos, angles.sin);
  return angles;
}
void ExpectAngles(const Angles& angles, const RopeConfig& rope, int32_t position,
                  const std::vector<float>& factors, double scale) {
  for (int i = 0; i < 3; ++i) {
    const double angle = position * std::pow(rope.base, -2.0 * i / 6) / factors[static_cast<size_t>(i)];
    EXPECT_NEAR(angles.cos[i], scale * std::cos(angle), 2e-7) << i;
    EXPECT_NEAR(angles.sin[i], scale * std::sin(angle), 2e-7) << i;
  }
}

TEST(RopeTables, WithoutFactorsBothSetsAreAlike) {
  const RopeConfig rope = Config();
  for (const RopeSet set : {RopeSet::kShort, RopeSet::kLong}) {
    for (const int32_t position : {0, 1, 4097, 131071}) {
      ExpectAngles(Fill(rope, position, set), rope, position, {1, 1, 1}, 1);
    }
  }
  const Angles origin = Fill(rope, 0, RopeSet::kShort);
  EXPECT_EQ(origin.cos[2], 1.0f);
  EXPECT_EQ(origin.sin[2], 0.0f);
}

TEST(RopeTables, FactorsWithoutASecondSetServeBoth) {
  RopeConfig rope = Config();
  rope.freq_factors = {1, 2, 8};
  rope.linear_factor = 4;
  for (const RopeSet set : {RopeSet::kShort, RopeSet::kLong}) {
    ExpectAngles(Fill(rope, 77, set), rope, 77, {4, 8, 32}, 1);
  }
}

TEST(RopeTables, LongRopeHasFactorsAndScaleForEachSet) {
  RopeConfig rope = Config();
  rope.original_context_tokens = 64;
  rope.freq_factors = {1, 1.5, 2};
  rope.long_factors = {1, 4, 30};
  rope.mscale = 1.25;
  rope.long_mscale = 1.5;
  ExpectAngles(Fill(rope, 50, RopeSet::kShort), rope, 50, rope.freq_factors, 1.25);
  ExpectAngles(Fill(rope, 50, RopeSet::kLong), rope, 50, rope.long_factors, 1.5);
}

}  // namespace
}  // namespace moepool
