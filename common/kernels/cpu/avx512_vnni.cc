// Products that need AVX-512 VNNI, in a file of their own so that the compiler can use VNNI nowhere else.
#include <immintrin.h>

#include "common/kernels/cpu/avx512_matmul.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

constexpr KernelTable Table() {
  KernelTable table{};
  table.name = "avx512vnni";
  const auto set = [&table](DType dtype, auto kernel) { table.matmul[static_cast<int>(dtype)] = kernel; };
  set(DType::kQ4_0, VnniMatMul<VnniQ4_0>);
  set(DType::kQ4_1, VnniMatMul<VnniQ4_1>);
  set(DType::kQ5_0, VnniMatMul<VnniQ5_0>);
  set(DType::kQ5_1, VnniMatMul<VnniQ5_1>);
  set(DType::kQ8_0, VnniMatMul<VnniQ8_0>);
  set(DType::kQ2_K, VnniMatMul<VnniQ2_K>);
  set(DType::kQ3_K, VnniMatMul<VnniQ3_K>);
  set(DType::kQ4_K, VnniMatMul<VnniQ4_K>);
  set(DType::kQ5_K, VnniMatMul<VnniQ5_K>);
  set(DType::kQ6_K, VnniMatMul<VnniQ6_K>);
  set(DType::kIQ4_NL, VnniMatMul<VnniIQ4_NL>);
  set(DType::kMXFP4, VnniMatMul<VnniMXFP4>);
  return table;
}

}  // namespace

constexpr KernelTable kAvx512VnniTable = Table();

}  // namespace moepool
