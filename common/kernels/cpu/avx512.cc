// The AVX-512 table. Compiled with AVX-512 F, BW, DQ and VL, FMA and F16C; reached only where detect.cc found
// all of them. What is null here is AVX2's (tables.h).
#include <immintrin.h>

#include "common/kernels/cpu/generic.h"
#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

constexpr KernelTable Table() {
  KernelTable table{};
  table.name = "avx512";
  return table;
}

}  // namespace

constexpr KernelTable kAvx512Table = Table();

}  // namespace moepool
