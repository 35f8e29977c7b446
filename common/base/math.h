// Elementary functions on which tokens depend, as our own polynomials, so that every libm, compiler and ISA
// gives the same bits. Compiled with -ffp-contract=off; the f32 forms have AVX2 twins that compute the same
// sequence of operations (common/kernels).
#pragma once

namespace moepool {

// e^x in f32, within 2 ulp. Exact at 0 (1). x <= -104: 0. x > 88.72: +inf. NaN passes through.
float Exp(float x);
inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }

// f64 forms for tables made at load (rotary angles): within 2 ulp on the ranges used there.
double Exp2(double x);
double Log2(double x);                            // x > 0
double Pow(double base, double x);                // base > 0
void SinCos(double x, double* sin, double* cos);  // |x| <= 2^30

// Natural logarithm in f32 of x > 0 (log-probabilities), within 2 ulp.
float Log(float x);

}  // namespace moepool
