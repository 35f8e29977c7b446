// What comes before attention: queries and keys normalised and rotated, keys and values written to the cache.
#pragma once

#include "common/kernels/cuda/attention_args.h"
#include "common/kernels/cuda/numerics.cuh"

namespace moepool {
namespace {

constexpr int kProjectThreads = 256;
constexpr int kLanes = 16;  // threads of a head: the lanes of its sum of squares

// The 16 threads that have a head, in one warp.
struct HeadThreads {
  int index;  // of the block's
  int lane;
  uint32_t mask;
};
SIMT_DEVICE HeadThreads OwnHeadThreads() {
  const int thread = static_cast<int>(threadIdx.x);
  return {thread / kLanes, thread % kLanes, 0xffffu << (thread & kLanes)};
}

// The tree of generic.h over the lanes: additions of the same pairs, whichever comes first.
SIMT_DEVICE float SumOfLanes(const HeadThreads& own, float sum) {
  SIMT_UNROLL
  for (int apart = kLanes / 2; apart > 0; apart /= 2) sum += simt::ShuffleXor(own.mask, sum, apart);
  return sum;
}

SIMT_DEVICE float SumSquares(const HeadThreads& own, const float* x, int count) {
  float sum = 0;
  for (int i = own.lane; i < count; i += kLanes) sum = simt::Fma(x[i], x[i], sum);
  return SumOfLanes(own, sum);
}

// y = (x * inverse) * weight, or NaN where the norm is not finite anywhere; without weights y = x.
struct Normalized {
  const float* weight = nullptr;
  float inverse = 0;
  bool finite = true;
  SIMT_DEVICE float operator()(const float* x, int i) const {
    if (weight == nullptr) return x[i];
    return finite ? Scaled(x, i) : simt::BitsFloat(0x7fc00000u);
  }
  SIMT_DEVICE float Scaled(const float* x, int i) const { return (x[i] * inverse) * weight[i]; }
};

SIMT_DEVICE float InverseNorm(float sum_squares, int count, float eps) {
  return simt::Divide(1.0f, simt::SquareRoot(simt::Divide(sum_squares, static_cast<float>(count)) + eps));
}

// Of one head by itself.
SIMT_DEVICE Normalized NormOfHead(const HeadThreads& own, const float* weight, float eps, const float* x,
                                  int count) {
  Normalized norm;
  norm.weight = weight;
  const float sum = SumSquares(own, x, count);
  norm.inverse = InverseNorm(sum, count, eps);
  bool finite = IsFinite(sum);
  for (int i = own.lane; i < count; i += kLanes) finite = finite && IsFinite(norm.Scaled(x, i));
  norm.finite = simt::All(own.mask, finite);
  return norm;
}

// Of all heads of q (part 0) and of k (part 1) as rows. All threads of the block call it.
SIMT_DEVICE void NormRows(const ProjectArgs& args, const HeadThreads& own, const float* row,
                          Normalized (&norms)[2]) {
  SIMT_SHARED(float, sums, 2);
  SIMT_SHARED(int32_t, faults, 2);
  const AttentionShape& shape = args.shape;
  const int counts[2] = {shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim};
  const float* const parts[2] = {row, row + counts[0]};
  // Of different warps, so that one does not wait for the other.
  if (own.index == 0 || own.index == 2) {
    const bool key = own.index == 2;
    const float sum = SumSquares(own, key ? parts[1] : parts[0], key ? counts[1] : counts[0]);
    if (own.lane == 0) {
      sums[key ? 1 : 0] = sum;
      faults[key ? 1 : 0] = IsFinite(sum) ? 0 : 1;
    }
  }
  simt::SyncThreads();
  SIMT_UNROLL
  for (int part = 0; part < 2; ++part) {
    norms[part].weight = part == 0 ? shape.q_norm : shape.k_norm;
    norms[part].inverse = InverseNorm(sums[part], counts[part], shape.norm_eps);
    bool finite = true;
    for (int i = static_cast<int>(threadIdx.x); i < counts[part]; i += kProjectThreads) {
      finite = finite && IsFinite(norms[part].Scaled(parts[part], i));
    }
    if (!finite) simt::AtomicOr(&faults[part], 1);
  }
  // Nobody overwrites the row before all have read it and said whether it is finite.
  simt::SyncThreads();
  SIMT_UNROLL
  for (int part = 0; part < 2; ++part) norms[part].finite = faults[part] == 0;
}

// x <- norm(x), rotated. A pair is one thread's.
SIMT_DEVICE void RotateHead(const ProjectArgs& args, const HeadThreads& own, int row, const Normalized& norm,
                            float* x) {
  const int pairs = args.shape.rope_dims / 2;
  const bool neox = args.shape.rope == RopeKind::kNeox;
  const float* const cos = args.tables.cos + int64_t{row} * pairs;
  const float* const sin = args.tables.sin + int64_t{row} * pairs;
  for (int i = own.lane; i < pairs; i += kLanes) {
    const int a = neox ? i : 2 * i;
    const int b = neox ? a + pairs : a + 1;
    const float a0 = norm(x, a);
    const float b0 = norm(x, b);
    x[a] = simt::Fma(-b0, sin[i], a0 * cos[i]);
    x[b] = simt::Fma(b0, cos[i], a0 * sin[i]);
  }
  if (norm.weight == nullptr) return;
  for (int i = 2 * pairs + own.lane; i < args.shape.head_dim; i += kLanes) x[i] = norm(x, i);
}

// Codes and scale of x [32], codes `stride` apart; as QuantizeKvBlock of generic.h.
SIMT_DEVICE void StoreQuantized(const HeadThreads& own, const float* x, int stride, std::byte* codes,
                                std::byte* scale) {
  const float values[2] = {x[own.lane], x[own.lane + kLanes]};
  uint32_t largest = Magnitude(values[0]);
  largest = Magnitude(values[1]) > largest ? Magnitude(values[1]) : largest;
  SIMT_UNROLL
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    const uint32_t other = simt::ShuffleXor(own.mask, largest, apart);
    largest = other > largest ? other : largest;
  }
  constexpr uint16_t infinity = 0x7c00;
  constexpr uint16_t nan = 0x7e00;
  const uint16_t half = FloatToHalf(simt::Divide(simt::BitsFloat(largest), kLargestCode));
  const bool usable = half != 0 && half < infinity;
  const float inverse = usable ? simt::Divide(1.0f, HalfToFloat(half)) : 0.0f;
  SIMT_UNROLL
  for (int i = 0; i < 2; ++i) {
    const int code = RoundToCode((usable ? values[i] : 0.0f) * inverse);
    reinterpret_cast<int8_t*>(codes)[(own.lane + i * kLanes) * stride] = static_cast<int8_t>(code);
  }
  if (own.lane == 0) *reinterpret_cast<uint16_t*>(scale) = half < infinity ? half : nan;
}

// Position `slot` of a block of the cache: k as a column of [head_dim][16], v as a row of [16][head_dim].
SIMT_DEVICE void StoreKeyAndValue(const ProjectArgs& args, const HeadThreads& own, const float* k,
                                  const float* v, int slot, int64_t offset) {
  const int dim = args.shape.head_dim;
  std::byte* const k_block = args.kv.k + offset;
  std::byte* const v_block = args.kv.v + offset;
  if (args.kv.type == KvType::kQ8_0) {
    for (int d = 0; d < dim; d += kKvQuantBlock) {
      const int scale = kKvBlockTokens * dim + 2 * (d / kKvQuantBlock * kKvBlockTokens + slot);
      StoreQuantized(own, k + d, kKvBlockTokens, k_block + d * kKvBlockTokens + slot, k_block + scale);
      StoreQuantized(own, v + d, 1, v_block + slot * dim + d, v_block + scale);
    }
    return;
  }
  const bool full = args.kv.type == KvType::kF32;
  const bool bf16 = args.kv.type == KvType::kBF16;
  for (int d = own.lane; d < dim; d += kLanes) {
    const int k_at = d * kKvBlockTokens + slot;
    const int v_at = slot * dim + d;
    if (full) {
      reinterpret_cast<float*>(k_block)[k_at] = k[d];
      reinterpret_cast<float*>(v_block)[v_at] = v[d];
    } else {
      reinterpret_cast<uint16_t*>(k_block)[k_at] = bf16 ? FloatToBf16(k[d]) : FloatToHalf(k[d]);
      reinterpret_cast<uint16_t*>(v_block)[v_at] = bf16 ? FloatToBf16(v[d]) : FloatToHalf(v[d]);
    }
  }
}

// Grid: rows, shares of the heads; for norms of rows one share, since all of it is read before any is
// written.
SIMT_KERNEL ProjectKernel(ProjectArgs args) {
  const AttentionShape& shape = args.shape;
  const HeadThreads own = OwnHeadThreads();
  const int row = static_cast<int>(blockIdx.x);
  const int dim = shape.head_dim;
  float* const q = args.qkv + int64_t{row} * (shape.heads + 2 * shape.kv_heads) * dim;
  Normalized norms[2];
  if (shape.qk_norm == QkNorm::kRow) NormRows(args, own, q, norms);
  constexpr int heads_a_block = kProjectThreads / kLanes;
  const int begin = static_cast<int>(blockIdx.y) * heads_a_block + own.index;
  for (int h = begin; h < shape.heads + shape.kv_heads; h += static_cast<int>(gridDim.y) * heads_a_block) {
    const bool key = h >= shape.heads;
    const int of_part = key ? h - shape.heads : h;
    float* const x = q + h * dim;
    Normalized norm = key ? norms[1] : norms[0];
    if (shape.qk_norm == QkNorm::kHead) {
      norm = NormOfHead(own, key ? shape.k_norm : shape.q_norm, shape.norm_eps, x, dim);
      // Pairs are not of the lanes that read them here.
      simt::SyncWarp(own.mask);
    } else if (shape.qk_norm == QkNorm::kRow) {
      norm.weight += of_part * dim;
    }
    RotateHead(args, own, row, norm, x);
    if (!key) continue;
    simt::SyncWarp(own.mask);
    const AttendRow r = args.tables.rows[row];
    const int64_t block = args.tables.blocks[r.table + r.position / kKvBlockTokens];
    const int64_t offset = (block * shape.kv_heads + of_part) * args.head_bytes;
    StoreKeyAndValue(args, own, x, x + shape.kv_heads * dim, r.position % kKvBlockTokens, offset);
  }
}

}  // namespace
}  // namespace moepool
