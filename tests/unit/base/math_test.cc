// Elementary functions against long double libm over dense ranges; exact cases; special values.
#include "common/base/math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

namespace moepool {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kInf64 = std::numeric_limits<double>::infinity();

long double Wide(double x) { return x; }

// Distance in units of the last place of `exact`, rounded to T.
template <typename T>
double Ulps(T value, long double exact) {
  const T near = std::fabs(static_cast<T>(exact));
  const T ulp = std::nextafter(near, std::numeric_limits<T>::infinity()) - near;
  return static_cast<double>(std::fabs(value - exact) / ulp);
}

TEST(MathTest, ExpIsWithinTwoUlp) {
  double worst = 0;
  for (float x = -103.9f; x < 88.72f; x += 0.00037f) worst = std::max(worst, Ulps(Exp(x), std::exp(Wide(x))));
  for (float x = 1e-12f; x < 1; x *= 1.01f) {
    worst = std::max(worst, Ulps(Exp(x), std::exp(Wide(x))));
    worst = std::max(worst, Ulps(Exp(-x), std::exp(Wide(-x))));
  }
  EXPECT_LE(worst, 2);
}

TEST(MathTest, ExpSpecialValues) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Exp(-0.0f), 1.0f);
  EXPECT_EQ(Exp(-104.0f), 0.0f);
  EXPECT_EQ(Exp(-kInf), 0.0f);
  EXPECT_GT(Exp(-103.0f), 0.0f);  // a subnormal, not flushed
  EXPECT_EQ(Exp(88.73f), kInf);
  EXPECT_EQ(Exp(kInf), kInf);
  EXPECT_TRUE(std::isfinite(Exp(88.72f)));
  EXPECT_TRUE(std::isnan(Exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(MathTest, ExpNeverDecreases) {
  float last = 0;
  for (float x = -104; x < 88.7f; x = std::nextafter(x + 1e-4f, kInf)) {
    const float y = Exp(x);
    EXPECT_GE(y, last) << x;
    last = y;
  }
}

TEST(MathTest, LogIsWithinTwoUlp) {
  double worst = 0;
  for (float x = 1e-44f; x < 3e38f; x = std::nextafter(x * 1.0007f, kInf)) {
    worst = std::max(worst, Ulps(Log(x), std::log(Wide(x))));
  }
  for (float x = 0.9f; x < 1.1f; x = std::nextafter(x + 1e-6f, kInf)) {
    if (x != 1) worst = std::max(worst, Ulps(Log(x), std::log(Wide(x))));
  }
  EXPECT_LE(worst, 2);
  EXPECT_EQ(Log(1.0f), 0.0f);
  EXPECT_EQ(Log(kInf), kInf);
  EXPECT_EQ(Log(0.0f), -kInf);
  EXPECT_TRUE(std::isnan(Log(-1.0f)));
}

TEST(MathTest, Exp2IsWithinTwoUlp) {
  double worst = 0;
  for (double x = -1021; x < 1023.9; x += 0.00931) worst = std::max(worst, Ulps(Exp2(x), std::exp2(Wide(x))));
  EXPECT_LE(worst, 2);
  for (int n = -1022; n < 1024; ++n) EXPECT_EQ(Exp2(n), std::ldexp(1.0, n));
  EXPECT_EQ(Exp2(1024), kInf64);
  EXPECT_EQ(Exp2(-2000), 0);
  EXPECT_TRUE(std::isnan(Exp2(std::nan(""))));
}

TEST(MathTest, Log2IsWithinTwoUlp) {
  double worst = 0;
  for (double x = 1e-300; x < 1e300; x *= 1.0019) worst = std::max(worst, Ulps(Log2(x), std::log2(Wide(x))));
  for (double x = 0.5; x < 2; x += 1.37e-5) worst = std::max(worst, Ulps(Log2(x), std::log2(Wide(x))));
  EXPECT_LE(worst, 2);
  for (int n = -1022; n < 1024; ++n) EXPECT_EQ(Log2(std::ldexp(1.0, n)), n);
}

TEST(MathTest, PowIsWithinTwoUlp) {
  double worst = 0;
  for (double base : {10000.0, 100000.0, 500000.0, 1e6, 1e7, 1.5, 1.0000001, 0.001}) {
    for (double x = -2; x < 2; x += 0.00137) {
      worst = std::max(worst, Ulps(Pow(base, x), std::pow(Wide(base), Wide(x))));
    }
  }
  EXPECT_LE(worst, 2);
  EXPECT_EQ(Pow(10000, 0), 1);
  EXPECT_EQ(Pow(2, 10), 1024);
}

TEST(MathTest, SinCosAreWithinTwoUlp) {
  std::mt19937_64 rng(7);
  double worst = 0;
  for (int i = 0; i < 300000; ++i) {
    const int exponent = static_cast<int>(rng() % 50) - 20;  // up to 2^29
    const double x = std::ldexp(1 + std::ldexp(static_cast<double>(rng() >> 12), -52), exponent) *
                     ((rng() & 1) != 0 ? 1 : -1);
    double sin, cos;
    SinCos(x, &sin, &cos);
    worst = std::max(worst, Ulps(sin, std::sin(Wide(x))));
    worst = std::max(worst, Ulps(cos, std::cos(Wide(x))));
  }
  // Next to multiples of pi/2, where most of the argument cancels.
  for (int64_t k = 1; k < (int64_t{1} << 29); k = k * 3 + 1) {
    const double x = static_cast<double>(k * 1.57079632679489661923132169163975144L);
    double sin, cos;
    SinCos(x, &sin, &cos);
    worst = std::max(worst, Ulps(sin, std::sin(Wide(x))));
    worst = std::max(worst, Ulps(cos, std::cos(Wide(x))));
  }
  EXPECT_LE(worst, 2);
  double sin, cos;
  SinCos(0, &sin, &cos);
  EXPECT_EQ(sin, 0);
  EXPECT_EQ(cos, 1);
}

}  // namespace
}  // namespace moepool
