// Kernels over single rows with AVX-512. Quantised blocks are taken 8 or 16 at once, so
// that maxima, sums and divisions fill whole registers.
#pragma once

#include <immintrin.h>

#include "common/kernels/cpu/avx512_math.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

void Avx512Scale(const float* x, float factor, int64_t n, float* y) {
  const __m512 f = _mm512_set1_ps(factor);
  ForLanes(n, [&](int64_t i, __mmask16 lanes) { Store(y + i, lanes, _mm512_mul_ps(Load(lanes, x + i), f)); });
}

void Avx512Add(const float* x, int64_t n, float* y) {
  ForLanes(n, [&](int64_t i, __mmask16 lanes) {
    Store(y + i, lanes, _mm512_add_ps(Load(lanes, y + i), Load(lanes, x + i)));
  });
}

inline __m512i Magnitude(__m512 x) {
  return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff));
}

inline bool AllFinite(__m512i largest_magnitude) {
  return _mm512_cmpge_epi32_mask(largest_magnitude, _mm512_set1_epi32(0x7f800000)) == 0;
}

bool Avx512Finite(const float* x, int64_t n) {
  __m512i largest = _mm512_setzero_si512();
  ForLanes(n, [&](int64_t i, __mmask16 lanes) {
    largest = _mm512_max_epi32(largest, Magnitude(Load(lanes, x + i)));
  });
  return AllFinite(largest);
}

void Avx512Exp(const float* x, int64_t n, float* y) {
  ForLanes(n, [&](int64_t i, __mmask16 lanes) { Store(y + i, lanes, Exp16(Load(lanes, x + i))); });
}

void Avx512SiluMul(const float* gate, const float* up, int64_t n, float* h) {
  const __m512 one = _mm512_set1_ps(1.0f);
  ForLanes(n, [&](int64_t i, __mmask16 lanes) {
    const __m512 g = Load(lanes, gate + i);
    const __m512 e = Exp16(_mm512_xor_ps(g, _mm512_set1_ps(-0.0f)));
    Store(h + i, lanes, _mm512_mul_ps(_mm512_div_ps(g, _mm512_add_ps(one, e)), Load(lanes, up + i)));
  });
}

// One chain of 16 lanes, as the definition wants it: cols / 16 times the latency of the addition.
inline float Sum16(const float* x, int64_t n) {
  __m512 acc = _mm512_setzero_ps();
  ForLanes(
      n, [&](int64_t i, __mmask16 lanes) { acc = _mm512_mask_add_ps(acc, lanes, acc, Load(lanes, x + i)); });
  return TreeSum(acc);
}

inline float SumSquares16(const float* x, int64_t n) {
  __m512 acc = _mm512_setzero_ps();
  ForLanes(n, [&](int64_t i, __mmask16 lanes) {
    const __m512 v = Load(lanes, x + i);
    acc = _mm512_mask3_fmadd_ps(v, v, acc, lanes);
  });
  return TreeSum(acc);
}

bool Avx512Norm(const NormWeights& norm, const float* x, int64_t cols, float* y) {
  const float n = static_cast<float>(cols);
  const float* centred = x;
  if (norm.kind == NormKind::kLayer) {
    const __m512 mean = _mm512_set1_ps(Sum16(x, cols) / n);
    ForLanes(cols, [&](int64_t i, __mmask16 lanes) {
      Store(y + i, lanes, _mm512_sub_ps(Load(lanes, x + i), mean));
    });
    centred = y;
  }
  const float sum = SumSquares16(centred, cols);
  const __m512 inverse = _mm512_set1_ps(1.0f / __builtin_sqrtf(sum / n + norm.eps));
  __m512i largest = _mm512_setzero_si512();
  ForLanes(cols, [&](int64_t i, __mmask16 lanes) {
    __m512 v = _mm512_mul_ps(_mm512_mul_ps(Load(lanes, centred + i), inverse), Load(lanes, norm.weight + i));
    if (norm.bias != nullptr) v = _mm512_add_ps(v, Load(lanes, norm.bias + i));
    largest = _mm512_max_epi32(largest, _mm512_maskz_mov_epi32(lanes, Magnitude(v)));
    Store(y + i, lanes, v);
  });
  return Finite(sum) && AllFinite(largest);
}

// --- Reductions of several registers at once ---

struct LargerOf {
  static __m512i Of(__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }
};
struct SumOf {
  static __m512i Of(__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }
};

// Quarter n of the result (128 bits) is, lane by lane, Op over quarter n of v[0], of v[1], of v[2], of v[3].
template <typename Op>
inline __m512i ReduceQuarters(const __m512i* v) {
  const __m512i a = Op::Of(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
  const __m512i b = Op::Of(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
  return Op::Of(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// Op of quarters 0 and 1 and of 2 and 3 of a, then the same of b.
template <typename Op>
inline __m512i ReducePairs(__m512i a, __m512i b) {
  return Op::Of(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
}

// Blocks [0, count) of the row, count <= 16.
inline bool QuantizeBlocks(const float* x, int64_t count, int8_t* q, float* scale) {
  __m512i largest[16];
  for (int64_t b = 0; b < 16; ++b) {
    largest[b] = b < count ? _mm512_max_epi32(Magnitude(_mm512_loadu_ps(x + b * kQuantBlock)),
                                              Magnitude(_mm512_loadu_ps(x + b * kQuantBlock + 16)))
                           : _mm512_setzero_si512();
  }
  __m512i quarters[4];
  for (int i = 0; i < 4; ++i) quarters[i] = ReduceQuarters<LargerOf>(largest + 4 * i);
  const __m512i bits = ReducePairs<LargerOf>(ReducePairs<LargerOf>(quarters[0], quarters[1]),
                                             ReducePairs<LargerOf>(quarters[2], quarters[3]));
  const __m512 maximum = _mm512_castsi512_ps(bits);
  const __mmask16 usable = _mm512_cmp_ps_mask(maximum, _mm512_set1_ps(kSmallestMaximum), _CMP_GE_OQ) &
                           _mm512_cmplt_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  const __m512 steps = _mm512_set1_ps(127.0f);
  Store(scale, FirstLanes(count), _mm512_maskz_div_ps(usable, maximum, steps));
  alignas(64) float inverse[16];
  _mm512_store_ps(inverse, _mm512_maskz_div_ps(usable, steps, maximum));
  // Products are within 127 (1 + 2^-22), so rounding alone keeps them within 127. Of a block that is not
  // finite they are 0 or NaN, which becomes 0x80000000 and then, cut to its low byte, 0 too.
  for (int64_t b = 0; b < count; ++b) {
    const __m512 factor = _mm512_set1_ps(inverse[b]);
    for (int64_t i = b * kQuantBlock; i < (b + 1) * kQuantBlock; i += 16) {
      const __m512i code = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + i), factor));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(code));
    }
  }
  return AllFinite(bits);
}

bool Avx512Quantize(const float* x, int64_t cols, int8_t* q, float* scale) {
  bool finite = true;
  int64_t b = 0;
  for (; b + 16 <= cols / kQuantBlock; b += 16) {
    finite &= QuantizeBlocks(x + b * kQuantBlock, 16, q + b * kQuantBlock, scale + b);
  }
  const int64_t left = cols / kQuantBlock - b;
  if (left > 0) finite &= QuantizeBlocks(x + b * kQuantBlock, left, q + b * kQuantBlock, scale + b);
  return finite;
}

// Sums over each 16 of the codes of `blocks` <= 8 blocks; lanes past them are 0.
inline __m512i HalfSums(const int8_t* q, int64_t blocks) {
  __m512i sums[4];  // of 4 codes each
  for (int64_t i = 0; i < 4; ++i) {
    const int64_t left = blocks - 2 * i;
    const __mmask64 bytes = left >= 2 ? ~__mmask64{0} : left == 1 ? 0xffffffff : 0;
    const __m512i codes = _mm512_maskz_loadu_epi8(bytes, q + 64 * i);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), codes);
    sums[i] = _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  }
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  return _mm512_permutexvar_epi32(order, ReduceQuarters<SumOf>(sums));
}

void Avx512ActivationBlocks(const int8_t* q, const float* scale, int64_t cols, ActivationBlock* blocks) {
  static_assert(offsetof(ActivationBlock, scale) == 32 && offsetof(ActivationBlock, scaled_sum) == 36 &&
                offsetof(ActivationBlock, neg_sum) == 40 && offsetof(ActivationBlock, neg_half_sums) == 44);
  const int64_t all = cols / kQuantBlock;
  for (int64_t first = 0; first < all; first += 8) {
    const int64_t count = all - first < 8 ? all - first : 8;
    const __m512i neg_halves =
        _mm512_sub_epi32(_mm512_setzero_si512(), HalfSums(q + first * kQuantBlock, count));
    // The low half of each 64 bits is the sum of the two.
    const __m512i neg_pairs = _mm512_add_epi32(neg_halves, _mm512_shuffle_epi32(neg_halves, _MM_PERM_CDAB));
    const __m256i neg_sum = _mm512_maskz_cvtepi64_epi32(0xff, neg_pairs);
    const __m256i neg_half_sums = _mm512_maskz_cvtepi32_epi16(kAllLanes, neg_halves);
    const __m256 sum = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_setzero_si256(), neg_sum));
    const __m256 scales = _mm256_maskz_loadu_ps(static_cast<__mmask8>(FirstLanes(count)), scale + first);
    const __m256i scaled = _mm256_castps_si256(_mm256_mul_ps(scales, sum));
    // From one register a field to 128 bits a block: blocks 0 to 3 in the low halves, 4 to 7 in the high
    // ones.
    const __m256i f0 = _mm256_unpacklo_epi32(_mm256_castps_si256(scales), scaled);
    const __m256i f1 = _mm256_unpackhi_epi32(_mm256_castps_si256(scales), scaled);
    const __m256i g0 = _mm256_unpacklo_epi32(neg_sum, neg_half_sums);
    const __m256i g1 = _mm256_unpackhi_epi32(neg_sum, neg_half_sums);
    const __m256i fields[4] = {_mm256_unpacklo_epi64(f0, g0), _mm256_unpackhi_epi64(f0, g0),
                               _mm256_unpacklo_epi64(f1, g1), _mm256_unpackhi_epi64(f1, g1)};
    for (int64_t i = 0; i < count; ++i) {
      ActivationBlock* const to = blocks + first + i;
      const __m256i codes =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + (first + i) * kQuantBlock));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to->q), codes);
      const __m128i tail =
          i < 4 ? _mm256_castsi256_si128(fields[i]) : _mm256_extracti128_si256(fields[i - 4], 1);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(&to->scale), tail);
    }
  }
}

// --- Attention: rows before and after the splits ---

void Avx512Rotate(RopeKind kind, const float* cos, const float* sin, int rope_dims, float* x) {
  const int pairs = rope_dims / 2;
  if (kind == RopeKind::kNeox) {
    ForLanes(pairs, [&](int64_t i, __mmask16 lanes) {
      const __m512 a = Load(lanes, x + i);
      const __m512 b = Load(lanes, x + pairs + i);
      const __m512 c = Load(lanes, cos + i);
      const __m512 s = Load(lanes, sin + i);
      Store(x + i, lanes, _mm512_fnmadd_ps(b, s, _mm512_mul_ps(a, c)));
      Store(x + pairs + i, lanes, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    });
    return;
  }
  // Even lanes: fma(b, -sin, a cos);  odd lanes: fma(b, cos, a sin).
  const __m512i even_odd = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const __m512i odd_even = _mm512_setr_epi32(16, 0, 17, 1, 18, 2, 19, 3, 20, 4, 21, 5, 22, 6, 23, 7);
  const __m512 minus = _mm512_castsi512_ps(_mm512_set1_epi64(0x80000000));  // of even lanes
  ForLanes(2 * pairs, [&](int64_t i, __mmask16 lanes) {
    const __mmask16 angles = FirstLanes(__builtin_popcount(lanes) / 2);
    const __m512 c = Load(angles, cos + i / 2);
    const __m512 s = Load(angles, sin + i / 2);
    const __m512 v = Load(lanes, x + i);
    const __m512 of_a = _mm512_permutex2var_ps(c, even_odd, s);
    const __m512 of_b = _mm512_xor_ps(_mm512_permutex2var_ps(c, odd_even, s), minus);
    const __m512 turned = _mm512_mul_ps(_mm512_moveldup_ps(v), of_a);
    Store(x + i, lanes, _mm512_fmadd_ps(_mm512_movehdup_ps(v), of_b, turned));
  });
}

// 16 columns of one key, or fewer, to their places [column][16 positions].
template <typename T>
inline void Scatter(const T* from, int64_t n, std::byte* to) {
  for (int64_t i = 0; i < n; ++i) __builtin_memcpy(to + i * kKvBlockTokens * sizeof(T), from + i, sizeof(T));
}

inline __m256i ToHalf(__m512 x) { return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT); }

// QuantizeKvBlock of generic.h to 32 bytes of codes.
inline uint16_t QuantizeKv32(const float* x, int8_t* codes) {
  const __m512 x0 = _mm512_loadu_ps(x);
  const __m512 x1 = _mm512_loadu_ps(x + 16);
  const int32_t bits = _mm512_reduce_max_epi32(_mm512_max_epi32(Magnitude(x0), Magnitude(x1)));
  const float maximum = BitsFloat(static_cast<uint32_t>(bits));
  const uint16_t half = _cvtss_sh(maximum / kLargestCode, _MM_FROUND_TO_NEAREST_INT);
  const bool usable = half != 0 && half < kHalfInfinity;
  const __mmask16 lanes = usable ? kAllLanes : 0;
  const __m512 inverse = _mm512_set1_ps(usable ? 1.0f / _cvtsh_ss(half) : 0.0f);
  const __m512i most = _mm512_set1_epi32(kLargestCode);
  const __m512i least = _mm512_set1_epi32(-kLargestCode);
  const auto code = [&](__m512 v) {
    const __m512i n = _mm512_cvtps_epi32(_mm512_maskz_mul_ps(lanes, v, inverse));
    return _mm512_cvtepi32_epi8(_mm512_max_epi32(_mm512_min_epi32(n, most), least));
  };
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes), code(x0));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16), code(x1));
  return half < kHalfInfinity ? half : kHalfNan;
}

void Avx512StoreKv(KvType type, const float* k, const float* v, int head_dim, int slot, std::byte* k_block,
                   std::byte* v_block) {
  switch (type) {
    case KvType::kBF16:
      StoreKv(type, k, v, head_dim, slot, k_block, v_block);
      return;
    case KvType::kF32:
      Scatter(k, head_dim, k_block + 4 * slot);
      __builtin_memcpy(v_block + int64_t{4} * slot * head_dim, v, sizeof(float) * head_dim);
      return;
    case KvType::kF16:
      ForLanes(head_dim, [&](int64_t d, __mmask16 lanes) {
        alignas(32) uint16_t keys[16];
        _mm256_store_si256(reinterpret_cast<__m256i*>(keys), ToHalf(Load(lanes, k + d)));
        Scatter(keys, __builtin_popcount(lanes), k_block + 2 * (kKvBlockTokens * d + slot));
        _mm256_mask_storeu_epi16(v_block + 2 * (int64_t{slot} * head_dim + d), lanes,
                                 ToHalf(Load(lanes, v + d)));
      });
      return;
    case KvType::kQ8_0:
      std::byte* const k_scales = k_block + kKvBlockTokens * head_dim + 2 * slot;
      std::byte* const v_scales = v_block + kKvBlockTokens * head_dim + 2 * slot;
      for (int d = 0; d < head_dim; d += kKvQuantBlock) {
        int8_t codes[kKvQuantBlock];
        uint16_t half[2];
        half[0] = QuantizeKv32(k + d, codes);
        Scatter(codes, kKvQuantBlock, k_block + kKvBlockTokens * d + slot);
        half[1] = QuantizeKv32(v + d, codes);
        __builtin_memcpy(v_block + int64_t{slot} * head_dim + d, codes, kKvQuantBlock);
        const int64_t at = d / kKvQuantBlock * kKvBlockTokens * 2;
        __builtin_memcpy(k_scales + at, &half[0], 2);
        __builtin_memcpy(v_scales + at, &half[1], 2);
      }
      return;
  }
}

void Avx512MergeSplit(int head_dim, float max1, float sum1, const float* acc1, float* max, float* sum,
                      float* acc) {
  const float m = Max(*max, max1);
  const __m512 powers = Exp16(_mm512_mask_blend_ps(1, _mm512_set1_ps(max1 - m), _mm512_set1_ps(*max - m)));
  const __m512 a = _mm512_broadcastss_ps(_mm512_castps512_ps128(powers));
  const __m512 b = _mm512_permutexvar_ps(_mm512_set1_epi32(1), powers);
  *max = m;
  *sum = __builtin_fmaf(sum1, _mm512_cvtss_f32(b), *sum * _mm512_cvtss_f32(a));
  ForLanes(head_dim, [&](int64_t d, __mmask16 lanes) {
    Store(acc + d, lanes, _mm512_fmadd_ps(Load(lanes, acc1 + d), b, _mm512_mul_ps(Load(lanes, acc + d), a)));
  });
}

void Avx512FinishSplit(int head_dim, float sum, const float* acc, float* out) {
  Avx512Scale(acc, 1.0f / sum, head_dim, out);
}

}  // namespace
}  // namespace moepool
