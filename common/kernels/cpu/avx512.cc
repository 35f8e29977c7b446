// The AVX-512 table. Compiled with AVX-512 F, BW, DQ and VL, FMA and F16C; reached only where detect.cc found
// all of them. What is null here is AVX2's (tables.h).
#include <immintrin.h>

#include "common/kernels/cpu/avx512_attention.h"
#include "common/kernels/cpu/avx512_plain.h"
#include "common/kernels/cpu/avx512_rows.h"
#include "common/kernels/cpu/generic.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

constexpr KernelTable Table() {
  KernelTable table{};
  table.name = "avx512";
  table.matmul[static_cast<int>(DType::kF32)] = PlainMatMul<PlainF32>;
  table.matmul[static_cast<int>(DType::kF16)] = PlainMatMul<PlainF16>;
  table.matmul[static_cast<int>(DType::kBF16)] = PlainMatMul<PlainBF16>;
  table.quantize = Avx512Quantize;
  table.activation_blocks = Avx512ActivationBlocks;
  table.norm = Avx512Norm;
  table.silu_mul = Avx512SiluMul;
  table.exp = Avx512Exp;
  table.rotate = Avx512Rotate;
  table.store_kv = Avx512StoreKv;
  table.attend_split = Avx512AttendSplit;
  table.merge_split = Avx512MergeSplit;
  table.finish_split = Avx512FinishSplit;
  table.scale = Avx512Scale;
  table.add = Avx512Add;
  table.finite = Avx512Finite;
  return table;
}

}  // namespace

constexpr KernelTable kAvx512Table = Table();

}  // namespace moepool
