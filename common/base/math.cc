// See math.h. Arguments are reduced by fma against constants held in two or three pieces; f64 forms carry a
// low word where an exponent would magnify the rounding of the high one.
#include "common/base/math.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "common/base/exp_constants.h"

namespace moepool {
namespace {

constexpr double kRoundMagic =
    6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer, nearest even
constexpr double kLn2 = 0x1.62e42fefa39efp-1;
constexpr double kLog2eHi = 0x1.71547652b82fep+0;
constexpr double kLog2eLo = 0x1.777d0ffda0d24p-56;

// hi + lo = ln(x), about 2^-100 relative in hi + lo but for the series' own rounding (2^-58).
//   x = m 2^e, m in [sqrt(1/2), sqrt(2)), s = (m - 1) / (m + 1), ln m = 2 (s + s^3/3 + s^5/5 + ...), |s| <
//   0.172.
struct LogParts {
  double exponent;
  double hi;
  double lo;
};

LogParts LnMantissa(double x) {
  int e = 0;
  double m = std::frexp(x, &e);
  if (m < 0x1.6a09e667f3bcdp-1) {
    m *= 2;
    --e;
  }
  const double num = m - 1;  // exact
  const double den = m + 1;
  const double den_lo = m - (den - 1);  // den - 1 is exact: den lies in [1.7, 2.42)
  const double s = num / den;
  const double s_lo = (std::fma(-s, den, num) - s * den_lo) / den;
  const double z = s * s;
  double p = 1.0 / 25;
  for (int k = 23; k >= 3; k -= 2) p = std::fma(p, z, 1.0 / k);
  return {static_cast<double>(e), 2 * s, 2 * (s_lo + s * z * p)};
}

// hi + lo = log2(x).
void Log2Parts(double x, double* hi, double* lo) {
  const LogParts ln = LnMantissa(x);
  const double a = ln.hi * kLog2eHi;
  const double b = std::fma(ln.hi, kLog2eHi, -a) + (ln.hi * kLog2eLo + ln.lo * kLog2eHi);
  const double sum = ln.exponent + a;  // |exponent| >= 1 > |a|, or the exponent is 0 and the sum exact
  const double low = (ln.exponent == 0 ? 0.0 : a - (sum - ln.exponent)) + b;
  *hi = sum + low;
  *lo = low - (*hi - sum);
}

// 2^(hi + lo), |lo| far below 1.
double Exp2Parts(double hi, double lo) {
  if (!(hi < 1024)) return hi >= 1024 ? std::numeric_limits<double>::infinity() : hi;
  if (hi < -1080) return 0;
  const double n = (hi + kRoundMagic) - kRoundMagic;
  const double r = ((hi - n) + lo) * kLn2;
  constexpr double kInverseFactorial[] = {1.0 / 2,       1.0 / 6,        1.0 / 24,        1.0 / 120,
                                          1.0 / 720,     1.0 / 5040,     1.0 / 40320,     1.0 / 362880,
                                          1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
  double p = kInverseFactorial[11];
  for (int k = 10; k >= 0; --k) p = std::fma(p, r, kInverseFactorial[k]);
  return std::ldexp(1 + std::fma(r * r, p, r), static_cast<int>(n));
}

}  // namespace

float Exp(float x) {
  if (x != x) return x;
  if (x > kExpOverflow) return std::numeric_limits<float>::infinity();
  if (x <= kExpUnderflow) return 0;
  const float shifted = std::fma(x, kExpLog2e, kExpRoundMagic);
  const int32_t n = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kExpRoundMagic);
  const float rounded = shifted - kExpRoundMagic;
  float r = std::fma(-rounded, kExpLn2Hi, x);
  r = std::fma(-rounded, kExpLn2Lo, r);
  float p = kExpPolynomial[4];
  for (int i = 3; i >= 0; --i) p = std::fma(p, r, kExpPolynomial[i]);
  p = std::fma(p, r * r, r) + 1.0f;
  // 2^n in two factors: results under 2^-126 are rounded once, and n = 128 does not overflow early.
  const int32_t half = n >> 1;
  const float scale0 = std::bit_cast<float>((half + 127) << 23);
  const float scale1 = std::bit_cast<float>((n - half + 127) << 23);
  return p * scale0 * scale1;
}

float Log(float x) {
  if (x != x || x == std::numeric_limits<float>::infinity()) return x;
  if (x == 0) return -std::numeric_limits<float>::infinity();
  if (x < 0) return std::numeric_limits<float>::quiet_NaN();
  const LogParts ln = LnMantissa(x);
  return static_cast<float>(std::fma(ln.exponent, kLn2, ln.hi + ln.lo));
}

double Exp2(double x) { return Exp2Parts(x, 0); }

double Log2(double x) {
  double hi = 0;
  double lo = 0;
  Log2Parts(x, &hi, &lo);
  return hi + lo;
}

double Pow(double base, double x) {
  double hi = 0;
  double lo = 0;
  Log2Parts(base, &hi, &lo);
  const double product = x * hi;
  return Exp2Parts(product, std::fma(x, hi, -product) + x * lo);
}

void SinCos(double x, double* sin, double* cos) {
  // pi/2 = P1 + P2 + P3. k P1 is within 1 of x and both are multiples of 2^-53 once k is not 0, so the first
  // subtraction is exact; the second leaves its rounding in `lo`.
  constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;
  constexpr double kP1 = 0x1.921fb54442d18p+0;
  constexpr double kP2 = 0x1.1a62633145c07p-54;
  constexpr double kP3 = -0x1.f1976b7ed8fbcp-110;
  const double k = std::fma(x, kTwoOverPi, kRoundMagic) - kRoundMagic;
  const double r1 = std::fma(-k, kP1, x);
  const double w = k * kP2;
  const double r = r1 - w;
  const double back = r1 - r;
  const double lo = ((r1 - (r + back)) + (back - w)) - (std::fma(k, kP2, -w) + k * kP3);
  const double z = r * r;

  constexpr double kSin[] = {
      -1.0 / 6,        1.0 / 120,         -1.0 / 5040,           1.0 / 362880,
      -1.0 / 39916800, 1.0 / 6227020800., -1.0 / 1307674368000., 1.0 / 355687428096000.};
  constexpr double kCos[] = {
      1.0 / 24,          -1.0 / 720,          1.0 / 40320,           -1.0 / 3628800,
      1.0 / 479001600.0, -1.0 / 87178291200., 1.0 / 20922789888000., -1.0 / 6402373705728000.};
  double ps = kSin[7];
  double pc = kCos[7];
  for (int i = 6; i >= 0; --i) {
    ps = std::fma(ps, z, kSin[i]);
    pc = std::fma(pc, z, kCos[i]);
  }
  const double s = r + std::fma(r * z, ps, std::fma(-0.5 * z, lo, lo));
  const double half = 0.5 * z;
  const double one = 1 - half;
  const double c = one + (((1 - one) - half) + std::fma(z * z, pc, -r * lo));
  const int64_t quadrant = static_cast<int64_t>(k) & 3;
  const double sin_q = (quadrant & 1) != 0 ? c : s;
  const double cos_q = (quadrant & 1) != 0 ? s : c;
  *sin = (quadrant & 2) != 0 ? -sin_q : sin_q;
  *cos = (quadrant == 1 || quadrant == 2) ? -cos_q : cos_q;
}

}  // namespace moepool
