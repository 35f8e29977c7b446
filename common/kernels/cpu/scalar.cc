// The reference: each kernel as the formula reads. SIMD files are compared with it for equality.
#include "common/base/math.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/cpu/scalar_attention.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

const uint8_t* Group(const PackedWeights& w, int64_t group) { return w.data + group * w.group_bytes; }

// Code of a lane and column in the vectors of packed.h.
int Nibble(const uint8_t* codes, int lane, int col) {
  const int quad = col / 4;
  const int byte = codes[64 * (quad & 3) + 4 * lane + col % 4];
  return quad < 4 ? byte & 15 : byte >> 4;
}
int SixBits(const uint8_t* codes, int lane, int col) {
  const int quad = col / 4;
  const int high = codes[256 + 64 * (quad & 1) + 4 * lane + col % 4] >> (2 * (quad >> 1)) & 3;
  return Nibble(codes, lane, col) | high << 4;
}
int Byte(const uint8_t* codes, int lane, int col) {
  return static_cast<int8_t>(codes[64 * (col / 4) + 4 * lane + col % 4]);
}

// One lane and block: the planes' bytes of the block, and the activations.
struct BlockTerm {
  const uint8_t* codes;
  const uint8_t* scales;
  const uint8_t* supers;
  const int8_t* q;
  float d_x;
  float scaled_sum;
  int lane;
};

float Half(const uint8_t* plane, int lane) { return F16ToF32(LoadU16(plane + 2 * lane)); }

template <typename Code>
int32_t Dot(const BlockTerm& t, int begin, int end, int offset, const Code& code) {
  int32_t sum = 0;
  for (int c = begin; c < end; ++c) sum += (code(t.codes, t.lane, c) - offset) * t.q[c];
  return sum;
}

struct Q8_0 {
  static constexpr int kCodes = 512, kScales = 32, kSupers = 0;
  static float Step(const BlockTerm& t, float acc) {
    return __builtin_fmaf(static_cast<float>(Dot(t, 0, 32, 0, Byte)), Half(t.scales, t.lane) * t.d_x, acc);
  }
};
struct Q4_0 {
  static constexpr int kCodes = 256, kScales = 32, kSupers = 0;
  static float Step(const BlockTerm& t, float acc) {
    return __builtin_fmaf(static_cast<float>(Dot(t, 0, 32, 8, Nibble)), Half(t.scales, t.lane) * t.d_x, acc);
  }
};
struct Q4_1 {
  static constexpr int kCodes = 256, kScales = 64, kSupers = 0;
  static float Step(const BlockTerm& t, float acc) {
    acc = __builtin_fmaf(static_cast<float>(Dot(t, 0, 32, 0, Nibble)), Half(t.scales, t.lane) * t.d_x, acc);
    return __builtin_fmaf(Half(t.scales + 32, t.lane), t.scaled_sum, acc);
  }
};
struct Q4_K {
  static constexpr int kCodes = 256, kScales = 32, kSupers = 64;
  static float Step(const BlockTerm& t, float acc) {
    const float scale = Half(t.supers, t.lane) * static_cast<float>(t.scales[t.lane]);
    const float min = Half(t.supers + 32, t.lane) * static_cast<float>(t.scales[16 + t.lane]);
    acc = __builtin_fmaf(static_cast<float>(Dot(t, 0, 32, 0, Nibble)), scale * t.d_x, acc);
    return __builtin_fmaf(-min, t.scaled_sum, acc);
  }
};
struct Q6_K {
  static constexpr int kCodes = 384, kScales = 32, kSupers = 32;
  static float Step(const BlockTerm& t, float acc) {
    const int32_t scale0 = static_cast<int8_t>(t.scales[2 * t.lane]);
    const int32_t scale1 = static_cast<int8_t>(t.scales[2 * t.lane + 1]);
    const int32_t sum = scale0 * Dot(t, 0, 16, 32, SixBits) + scale1 * Dot(t, 16, 32, 32, SixBits);
    return __builtin_fmaf(static_cast<float>(sum), Half(t.supers, t.lane) * t.d_x, acc);
  }
};

template <typename Format>
void MatMulQuantized(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                     float* out, int64_t out_stride) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    const uint8_t* const group = Group(w, g);
    for (int64_t t = 0; t < x.count; ++t) {
      const int64_t row = x.index[t];
      const int64_t row_block = row * (x.cols / kQuantBlock);
      float* const y = out + t * out_stride + (g - group_begin) * kGroupRows;
      for (int lane = 0; lane < kGroupRows; ++lane) {
        float acc = 0;
        for (int64_t b = 0; b < w.blocks; ++b) {
          const BlockTerm term = {group + b * Format::kCodes,
                                  group + w.scales_offset + b * Format::kScales,
                                  group + w.supers_offset + (w.first_sub_block + b) / 8 * Format::kSupers,
                                  x.q + row * x.cols + b * kQuantBlock,
                                  x.scale[row_block + b],
                                  x.scaled_sums[row_block + b],
                                  lane};
          acc = Format::Step(term, acc);
        }
        y[lane] = acc;
      }
    }
  }
}

float WeightF32(const uint8_t* p, int lane) { return LoadF32(p + 4 * lane); }
float WeightBF16(const uint8_t* p, int lane) {
  return BitsFloat(static_cast<uint32_t>(LoadU16(p + 2 * lane)) << 16);
}

template <int kColumnBytes, float (*kWeight)(const uint8_t*, int)>
void MatMulPlain(const PackedWeights& w, int64_t group_begin, int64_t group_end, const ActivationRows& x,
                 float* out, int64_t out_stride) {
  for (int64_t g = group_begin; g < group_end; ++g) {
    const uint8_t* const group = Group(w, g);
    for (int64_t t = 0; t < x.count; ++t) {
      const float* const row = x.f32 + x.index[t] * x.cols;
      float* const y = out + t * out_stride + (g - group_begin) * kGroupRows;
      float acc[kGroupRows] = {};
      for (int64_t c = 0; c < w.blocks; ++c) {
        for (int lane = 0; lane < kGroupRows; ++lane) {
          acc[lane] = __builtin_fmaf(kWeight(group + c * kColumnBytes, lane), row[c], acc[lane]);
        }
      }
      for (int lane = 0; lane < kGroupRows; ++lane) y[lane] = acc[lane];
    }
  }
}

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

void BlockSums(const int8_t* q, const float* scale, int64_t cols, int16_t* half_sums, float* scaled_sums) {
  for (int64_t b = 0; b < cols / kQuantBlock; ++b) {
    int sum[2] = {0, 0};
    for (int i = 0; i < kQuantBlock; ++i) sum[i / 16] += q[b * kQuantBlock + i];
    if (half_sums != nullptr) {
      half_sums[2 * b] = static_cast<int16_t>(sum[0]);
      half_sums[2 * b + 1] = static_cast<int16_t>(sum[1]);
    }
    if (scaled_sums != nullptr) scaled_sums[b] = scale[b] * static_cast<float>(sum[0] + sum[1]);
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
     MatMulQuantized<Q4_1>, MatMulQuantized<Q8_0>, MatMulQuantized<Q4_K>, MatMulQuantized<Q6_K>},
    QuantizeRow,
    BlockSums,
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
