// The CPU kernels: one table of plain function pointers an instruction set, all equal bit for bit (DESIGN,
// section 5). Each works on packed weights (packed.h) or plain rows, knows nothing of threads, and allocates
// nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "common/backend/backend.h"
#include "common/tensor/dtype.h"

namespace moepool {

inline constexpr int kGroupRows = 16;    // output rows interleaved in packed weights
inline constexpr int kMaxHeadDim = 512;  // of attention kernels
inline constexpr int kAttentionScratchFloats = 12 * (kAttentionSplit + kMaxHeadDim + 16);
inline constexpr int kQuantBlock = 32;  // columns that share a scale of the activations

// Groups of 16 output rows of one matrix (packed.h).
struct PackedWeights {
  const uint8_t* data;      // 64-byte aligned
  int64_t group_bytes;      // a multiple of 64
  int64_t blocks;           // 32-column blocks; columns for F32, F16 and BF16
  int64_t first_sub_block;  // K-quants: place of block 0 within its super-block, in [0, 8)
};

// 32 columns of a row as quantised products read them: one pointer a row serves codes, scale and sums. The
// sums are negated as kernels start from them where codes have an offset.
struct alignas(16) ActivationBlock {
  int8_t q[kQuantBlock];
  float scale;
  float scaled_sum;          // scale * float(sum of q)
  int32_t neg_sum;           // minus the sum of q
  int16_t neg_half_sums[2];  // minus the sum of q over each 16 columns
};
static_assert(sizeof(ActivationBlock) == 48);

// Rows of activations, of which `index` picks `count`: quantised (made by activation_blocks) or f32.
struct ActivationRows {
  const ActivationBlock* blocks;  // [rows, cols / 32]
  const float* f32;               // [rows, cols]
  int64_t cols;
  const int32_t* index;  // [count]
  int64_t count;
};

// One split of one KV head of a sequence: 256 positions, whose keys are counted from its start.
struct KvSplit {
  KvType type;
  const std::byte* k;  // of this head in block 0; block n lies n * block_bytes after it
  const std::byte* v;
  int64_t block_bytes;
  const int32_t* blocks;  // blocks[b] numbers the block of keys 16 b ...; read where a row sees one of them
  int head_dim;           // at most kMaxHeadDim; a multiple of 32 for Q8_0
  // K of the head that is attended to next, in the same blocks, to be fetched from memory; null where that is
  // not known.
  const std::byte* next_k = nullptr;
};

// Rows of the sequence that attend to a split, in ascending order of position, and where their results go. Of
// each row `heads` queries share the KV head. Row r sees keys [begin[r], end[r]), 0 <= begin < end <= 256;
// neither bound descends from row to row.
struct SplitRows {
  int rows;
  int heads;
  const int* begin;  // [rows]
  const int* end;    // [rows]
  const float* q;    // [rows, heads, head_dim], rows q_stride floats apart
  int64_t q_stride;
  float* out;  // [rows, heads * (2 + head_dim)]: max [heads], sum [heads], acc [heads, head_dim]
  int64_t out_stride;
};

struct KernelTable {
  const char* name;

  // out[t * out_stride + (g - group_begin) * 16 + lane] = sum_c w[16 g + lane, c] x[index[t], c] for whole
  // groups, from zero.
  void (*matmul[kDTypeCount])(const PackedWeights& w, int64_t group_begin, int64_t group_end,
                              const ActivationRows& x, float* out, int64_t out_stride);

  // Blocks of 32 of one row; cols is a multiple of 32. For a block with maximum m = max|x|:
  //   m < 1e-30: scale = 0, q = 0.  Otherwise scale = m / 127, q = nearest_even(x * (127 / m)) within ±127,
  //   all f32.
  // False where a value is not finite; its block is then 0.
  bool (*quantize)(const float* x, int64_t cols, int8_t* q, float* scale);
  // blocks [cols / 32] of one row.
  void (*activation_blocks)(const int8_t* q, const float* scale, int64_t cols, ActivationBlock* blocks);

  // y = norm(x). Sums run over 16 lanes (lane = column mod 16) and one tree; false where the sum or an output
  // is not finite.
  //   RMS:    inv = 1 / sqrt(sum(x^2) / cols + eps);  y = (x * inv) * weight (+ bias)
  //   layer:  c = x - sum(x) / cols;  the same of c.
  bool (*norm)(const NormWeights& norm, const float* x, int64_t cols, float* y);

  // h = (gate / (1 + exp(-gate))) * up.  h may be gate.
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* h);
  void (*exp)(const float* x, int64_t n, float* y);

  // One head: x[pair] <- (fma(-b, sin, a * cos), fma(b, cos, a * sin)).
  void (*rotate)(RopeKind kind, const float* cos, const float* sin, int rope_dims, float* x);

  // Writes position `slot` (of 16) of one block and head: k as a column of [head_dim][16], v as a row of
  // [16][head_dim], in the cache's type (KvLayer).
  void (*store_kv)(KvType type, const float* k, const float* v, int head_dim, int slot, std::byte* k_block,
                   std::byte* v_block);

  // Attention of every query over its visible keys of one split, from zero.
  //   s = (sum_d k[d] q[d]) * scale;  m = max s;  p = exp(s - m);  acc[d] = sum p v[d], keys ascending;
  //   max = m, sum = sum of p over 16 lanes (key mod 16) and the tree.
  // Q8_0: the sum over d is one over blocks of 32, s = fma(sum_d code[d] q[d], k_scale, s), each inner sum
  // from zero; acc[d] = fma(p * v_scale, code[d], acc[d]).
  //   scratch: kAttentionScratchFloats.
  void (*attend_split)(const KvSplit& split, const SplitRows& rows, float scale, float* scratch);
  // Adds a later split to (max, sum, acc [head_dim]):  M = max(m0, m1);  a = exp(m0 - M);  b = exp(m1 - M);
  //   sum = fma(s1, b, s0 * a);  acc = fma(acc1, b, acc0 * a).
  void (*merge_split)(int head_dim, float max1, float sum1, const float* acc1, float* max, float* sum,
                      float* acc);
  // out = acc * (1 / sum).
  void (*finish_split)(int head_dim, float sum, const float* acc, float* out);

  // y[i] = x[i] * factor;  y[i] += x[i];  whether all are finite.
  void (*scale)(const float* x, float factor, int64_t n, float* y);
  void (*add)(const float* x, int64_t n, float* y);
  bool (*finite)(const float* x, int64_t n);
};

const KernelTable* ScalarKernels();
// "avx2". Null where the processor lacks AVX2, FMA or F16C.
const KernelTable* Avx2Kernels();
// "avx512": AVX-512 F, BW, DQ and VL; its products of quantised weights are AVX2's. Null where the processor
// or the operating system lacks one of them.
const KernelTable* Avx512Kernels();
// "avx512vnni": the same with products that need AVX-512 VNNI.
const KernelTable* Avx512VnniKernels();
// Those that this processor has, the slowest first.
std::span<const KernelTable* const> AvailableKernels();

}  // namespace moepool
