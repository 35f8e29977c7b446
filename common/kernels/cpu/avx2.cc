// The AVX2 table: the rows' kernels here, products and attention in their own headers. Compiled with -mavx2
// -mfma -mf16c; reached only where detect.cc found all three.
#include <immintrin.h>

#include "common/kernels/cpu/avx2_attention.h"
#include "common/kernels/cpu/avx2_math.h"
#include "common/kernels/cpu/avx2_matmul.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

void Avx2Exp(const float* x, int64_t n, float* y) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(y + i, Exp8(_mm256_loadu_ps(x + i)));
  for (; i < n; ++i) y[i] = Exp1(x[i]);
}

inline __m256 Silu8(__m256 gate, __m256 up) {
  const __m256 e = Exp8(_mm256_xor_ps(gate, _mm256_set1_ps(-0.0f)));
  return _mm256_mul_ps(_mm256_div_ps(gate, _mm256_add_ps(_mm256_set1_ps(1.0f), e)), up);
}

void Avx2SiluMul(const float* gate, const float* up, int64_t n, float* h) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(h + i, Silu8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
  }
  for (; i < n; ++i) h[i] = _mm256_cvtss_f32(Silu8(_mm256_set1_ps(gate[i]), _mm256_set1_ps(up[i])));
}

// Sum of x, or of x^2, over 16 lanes; the last n mod 16 elements go to the first lanes.
template <bool kSquares>
float Sum16(const float* x, int64_t n) {
  const auto step = [](__m256 acc, __m256 v) {
    return kSquares ? _mm256_fmadd_ps(v, v, acc) : _mm256_add_ps(acc, v);
  };
  __m256 a = _mm256_setzero_ps();
  __m256 b = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    a = step(a, _mm256_loadu_ps(x + i));
    b = step(b, _mm256_loadu_ps(x + i + 8));
  }
  float lane[16];
  _mm256_storeu_ps(lane, a);
  _mm256_storeu_ps(lane + 8, b);
  for (int j = 0; i < n; ++i, ++j) lane[j] = kSquares ? __builtin_fmaf(x[i], x[i], lane[j]) : lane[j] + x[i];
  return TreeSum(_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8));
}

bool Avx2Norm(const NormWeights& norm, const float* x, int64_t cols, float* y) {
  const float n = static_cast<float>(cols);
  const float* centred = x;
  if (norm.kind == NormKind::kLayer) {
    const float mean = Sum16<false>(x, cols) / n;
    for (int64_t i = 0; i < cols; ++i) y[i] = x[i] - mean;
    centred = y;
  }
  const float sum = Sum16<true>(centred, cols);
  const float inv = 1.0f / __builtin_sqrtf(sum / n + norm.eps);
  const __m256 inverse = _mm256_set1_ps(inv);
  int64_t i = 0;
  for (; i + 8 <= cols; i += 8) {
    __m256 v =
        _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(centred + i), inverse), _mm256_loadu_ps(norm.weight + i));
    if (norm.bias != nullptr) v = _mm256_add_ps(v, _mm256_loadu_ps(norm.bias + i));
    _mm256_storeu_ps(y + i, v);
  }
  for (; i < cols; ++i) {
    const float scaled = (centred[i] * inv) * norm.weight[i];
    y[i] = norm.bias != nullptr ? scaled + norm.bias[i] : scaled;
  }
  return Finite(sum) && AllFinite(y, cols);
}

bool Avx2Quantize(const float* x, int64_t cols, int8_t* q, float* scale) {
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  bool finite = true;
  for (int64_t b = 0; b < cols / kQuantBlock; ++b, x += kQuantBlock, q += kQuantBlock) {
    __m256 v[4];
    __m256i largest = _mm256_setzero_si256();
    for (int i = 0; i < 4; ++i) {
      v[i] = _mm256_loadu_ps(x + 8 * i);
      largest = _mm256_max_epi32(largest, _mm256_and_si256(_mm256_castps_si256(v[i]), magnitude));
    }
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4E));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xB1));
    const uint32_t bits = static_cast<uint32_t>(_mm_cvtsi128_si32(m));
    const bool bad = bits >= 0x7f800000;
    finite = finite && !bad;
    const float maximum = BitsFloat(bits);
    if (bad || maximum < kSmallestMaximum) {
      scale[b] = 0;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_setzero_si256());
      continue;
    }
    scale[b] = maximum / 127.0f;
    const __m256 inverse = _mm256_set1_ps(127.0f / maximum);
    // Products are within 127 (1 + 2^-22), so rounding alone keeps them within 127 and packing never
    // saturates.
    __m256i n[4];
    for (int i = 0; i < 4; ++i) n[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(n[0], n[1]), _mm256_packs_epi32(n[2], n[3]));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm256_permutevar8x32_epi32(bytes, order));
  }
  return finite;
}

void Avx2ActivationBlocks(const int8_t* q, const float* scale, int64_t cols, ActivationBlock* blocks) {
  for (int64_t b = 0; b < cols / kQuantBlock; ++b) {
    const __m256i codes = Load32(q + b * kQuantBlock);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(blocks[b].q), codes);
    // VPSADBW sums bytes as unsigned: add 128 to each and take 16 * 128 off.
    const __m256i biased = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
    const __m256i sums = _mm256_sad_epu8(biased, _mm256_setzero_si256());
    const int half0 = static_cast<int>(_mm256_extract_epi64(sums, 0) + _mm256_extract_epi64(sums, 1)) - 2048;
    const int half1 = static_cast<int>(_mm256_extract_epi64(sums, 2) + _mm256_extract_epi64(sums, 3)) - 2048;
    blocks[b].scale = scale[b];
    blocks[b].scaled_sum = scale[b] * static_cast<float>(half0 + half1);
    blocks[b].neg_sum = -(half0 + half1);
    blocks[b].neg_half_sums[0] = static_cast<int16_t>(-half0);
    blocks[b].neg_half_sums[1] = static_cast<int16_t>(-half1);
  }
}

}  // namespace

constexpr KernelTable kAvx2Table = {
    "avx2",
    {PlainMatMul<PlainF32>, PlainMatMul<PlainF16>, PlainMatMul<PlainBF16>, QuantizedMatMul<Avx2Q4_0>,
     QuantizedMatMul<Avx2Q4_1>, QuantizedMatMul<Avx2Q5_0>, QuantizedMatMul<Avx2Q5_1>,
     QuantizedMatMul<Avx2Q8_0>, QuantizedMatMul<Avx2Q2_K>, QuantizedMatMul<Avx2Q3_K>,
     QuantizedMatMul<Avx2Q4_K>, QuantizedMatMul<Avx2Q5_K>, QuantizedMatMul<Avx2Q6_K>,
     QuantizedMatMul<Avx2IQ4_NL>, QuantizedMatMul<Avx2MXFP4>},
    Avx2Quantize,
    Avx2ActivationBlocks,
    Avx2Norm,
    Avx2SiluMul,
    Avx2Exp,
    Rotate,
    Avx2StoreKv,
    Avx2AttendSplit,
    Avx2MergeSplit,
    FinishSplit,
    Scale,
    Add,
    AllFinite,
};

}  // namespace moepool
