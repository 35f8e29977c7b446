// The reference: each kernel as the formula reads. SIMD files are compared with it for equality.
#include "common/base/math.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/cpu/scalar_attention.h"
#include "common/kernels/cpu/scalar_matmul.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

bool Norm(const NormWeights& norm, const float* x, int64_t cols, float* y) {
  const float n = static_cast<float>(cols);
  const float* centred = x;
  if (norm.kind == NormKind::kLayer) {
    const float mean = Sum(x, cols) / n;
    for (int64_t i = 0; i < cols; ++i) y[i] = x[i] - mean;
    centred = y;
  }
  const float sum = SumSquares(centred, cols);
  const float inv = 1.0f / __builtin_sqrtf(sum / n + norm.eps);
  for (int64_t i = 0; i < cols; ++i) {
    const float scaled = (centred[i] * inv) * norm.weight[i];
    y[i] = norm.bias != nullptr ? scaled + norm.bias[i] : scaled;
  }
  return Finite(sum) && AllFinite(y, cols);
}

bool QuantizeRow(const float* x, int64_t cols, int8_t* q, float* scale) {
  bool finite = true;
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    uint32_t largest = 0;
    for (int i = 0; i < kQuantBlock; ++i) {
      const uint32_t magnitude = FloatBits(x[i]) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
    const bool bad = largest >= 0x7f800000;
    finite = finite && !bad;
    const float maximum = BitsFloat(largest);
    if (bad || maximum < kSmallestMaximum) {
      scale[b] = 0;
      for (int i = 0; i < kQuantBlock; ++i) q[i] = 0;
      continue;
    }
    scale[b] = maximum / 127.0f;
    const float inverse = 127.0f / maximum;
    for (int i = 0; i < kQuantBlock; ++i) {
      // Adding 1.5 * 2^23 rounds to nearest even, as VCVTPS2DQ does.
      const int32_t n =
          static_cast<int32_t>(FloatBits(x[i] * inverse + kExpRoundMagic) - FloatBits(kExpRoundMagic));
      q[i] = static_cast<int8_t>(n > 127 ? 127 : n < -127 ? -127 : n);
    }
  }
  return finite;
}

void ActivationBlocks(const int8_t* q, const float* scale, int64_t cols, ActivationBlock* blocks) {
  for (int64_t b = 0; b < cols / kQuantBlock; ++b) {
    int neg_half[2] = {0, 0};
    for (int i = 0; i < kQuantBlock; ++i) {
      blocks[b].q[i] = q[b * kQuantBlock + i];
      neg_half[i / 16] -= q[b * kQuantBlock + i];
    }
    blocks[b].scale = scale[b];
    blocks[b].neg_sum = neg_half[0] + neg_half[1];
    blocks[b].scaled_sum = scale[b] * static_cast<float>(-blocks[b].neg_sum);
    for (int h = 0; h < 2; ++h) blocks[b].neg_half_sums[h] = static_cast<int16_t>(neg_half[h]);
  }
}

void ExpRow(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = Exp(x[i]);
}

void SiluMul(const float* gate, const float* up, int64_t n, float* h) {
  for (int64_t i = 0; i < n; ++i) h[i] = gate[i] / (1.0f + Exp(-gate[i])) * up[i];
}

constexpr KernelTable kTable = {
    "scalar",
    {MatMulPlain<64, WeightF32>, MatMulPlain<32, Half>, MatMulPlain<32, WeightBF16>, MatMulQuantized<Q4_0>,
     MatMulQuantized<Q4_1>, MatMulQuantized<Q5_0>, MatMulQuantized<Q5_1>, MatMulQuantized<Q8_0>,
     MatMulQuantized<Q2_K>, MatMulQuantized<Q3_K>, MatMulQuantized<Q4_K>, MatMulQuantized<Q5_K>,
     MatMulQuantized<Q6_K>, MatMulQuantized<IQ4_NL>, MatMulQuantized<MXFP4>},
    QuantizeRow,
    ActivationBlocks,
    Norm,
    SiluMul,
    ExpRow,
    Rotate,
    StoreKv,
    AttendSplit,
    MergeSplit,
    FinishSplit,
    Scale,
    Add,
    AllFinite,
};

}  // namespace

const KernelTable* ScalarKernels() { return &kTable; }

}  // namespace moepool
