// Both conversions against the definition of the formats, over all 16-bit values; powers of two in 8 bits.
#include "common/tensor/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace moepool {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a finite half by its definition.
double HalfValue(uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryHalfReadsAsDefined) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = HalfToFloat(half);
    if ((half & 0x7c00) == 0x7c00) {
      EXPECT_EQ(std::isnan(value), (half & 0x3ff) != 0) << bits;
      EXPECT_EQ(std::signbit(value), (half & 0x8000) != 0) << bits;
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), HalfValue(half)) << bits;
    ASSERT_EQ(FloatToHalf(value), half) << bits;  // zeros keep their sign
  }
}

TEST(Half, RoundsToNearestEven) {
  // The middle between neighbours goes to the even one; the floats next to the middle to the nearer one.
  for (uint16_t half = 0; half < 0x7bff; ++half) {
    const auto next = static_cast<uint16_t>(half + 1);
    const auto middle = static_cast<float>((HalfValue(half) + HalfValue(next)) / 2);
    const uint16_t even = half % 2 == 0 ? half : next;
    ASSERT_EQ(FloatToHalf(middle), even) << half;
    ASSERT_EQ(FloatToHalf(-middle), even | 0x8000) << half;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, 0.0f)), half) << half;
    ASSERT_EQ(FloatToHalf(std::nextafterf(middle, kInfinity)), next) << half;
  }
}

TEST(Half, Extremes) {
  EXPECT_EQ(FloatToHalf(65504.0f), 0x7bff);
  EXPECT_EQ(FloatToHalf(std::nextafterf(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(FloatToHalf(-kInfinity), 0xfc00);
  EXPECT_EQ(FloatToHalf(0x1p-25f), 0);
  EXPECT_EQ(FloatToHalf(std::nextafterf(0x1p-25f, 1.0f)), 1);
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::denorm_min()), 0);
  const uint16_t nan = FloatToHalf(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(std::isnan(HalfToFloat(nan)));
}

TEST(BFloat16, RoundTripAndNearestEven) {
  for (uint32_t bits = 0; bits < 0x7f80; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = BFloat16ToFloat(half);
    ASSERT_EQ(FloatToBFloat16(value), half);
    const float middle = std::bit_cast<float>((bits << 16) | 0x8000u);
    ASSERT_EQ(FloatToBFloat16(middle), half % 2 == 0 ? half : half + 1) << bits;
    ASSERT_EQ(FloatToBFloat16(std::nextafterf(middle, 0.0f)), half) << bits;
  }
  EXPECT_EQ(FloatToBFloat16(-kInfinity), 0xff80);
  // A NaN whose payload lies in the dropped bits must not become an infinity.
  EXPECT_TRUE(std::isnan(BFloat16ToFloat(FloatToBFloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(E8m0, EveryCodeIsItsPowerOfTwo) {
  for (int code = 0; code < 255; ++code) {
    EXPECT_EQ(double{E8m0ToFloat(static_cast<uint8_t>(code))}, std::ldexp(1.0, code - 127)) << code;
  }
  EXPECT_TRUE(std::isnan(E8m0ToFloat(255)));
}

}  // namespace
}  // namespace moepool
