// Products that need AVX-512 VNNI, in a file of their own so that the compiler can use VNNI nowhere else.
#include <immintrin.h>

#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

constexpr KernelTable Table() {
  KernelTable table{};
  table.name = "avx512vnni";
  return table;
}

}  // namespace

constexpr KernelTable kAvx512VnniTable = Table();

}  // namespace moepool
