// What the processor and the operating system offer. Compiled for the baseline, as is all that runs before
// the answer.
#include <cstddef>

#include "common/kernels/kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>

#include "common/kernels/cpu/tables.h"

namespace moepool {
namespace {

struct Isa {
  bool avx2 = false;  // with FMA and F16C
  bool avx512 = false;
  bool avx512_vnni = false;
};

Isa Detect() {
  Isa isa;
  unsigned a, b, c, d;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0) return isa;
  constexpr unsigned kWanted = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
  if ((c & kWanted) != kWanted) return isa;
  unsigned saved, high;  // states that the system saves
  __asm__ volatile("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  constexpr unsigned kYmmState = 0x06;  // XMM and the upper half of YMM
  constexpr unsigned kZmmState = 0xe6;  // and masks, the upper half of ZMM, ZMM16 to ZMM31
  if ((saved & kYmmState) != kYmmState || __get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return isa;
  isa.avx2 = (b & bit_AVX2) != 0;
  constexpr unsigned kAvx512 = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
  isa.avx512 = isa.avx2 && (saved & kZmmState) == kZmmState && (b & kAvx512) == kAvx512;
  isa.avx512_vnni = isa.avx512 && (c & bit_AVX512VNNI) != 0;
  return isa;
}

const Isa& Found() {
  static const Isa isa = Detect();
  return isa;
}

template <typename Kernel>
void Take(Kernel kernel, Kernel* to) {
  if (kernel != nullptr) *to = kernel;
}

// `base` with the kernels that `over` has.
KernelTable Overlay(const KernelTable& base, const KernelTable& over) {
  KernelTable table = base;
  table.name = over.name;
  for (int i = 0; i < kDTypeCount; ++i) Take(over.matmul[i], &table.matmul[i]);
  Take(over.quantize, &table.quantize);
  Take(over.activation_blocks, &table.activation_blocks);
  Take(over.norm, &table.norm);
  Take(over.silu_mul, &table.silu_mul);
  Take(over.exp, &table.exp);
  Take(over.rotate, &table.rotate);
  Take(over.store_kv, &table.store_kv);
  Take(over.attend_split, &table.attend_split);
  Take(over.merge_split, &table.merge_split);
  Take(over.finish_split, &table.finish_split);
  Take(over.scale, &table.scale);
  Take(over.add, &table.add);
  Take(over.finite, &table.finite);
  return table;
}

}  // namespace

const KernelTable* Avx2Kernels() { return Found().avx2 ? &kAvx2Table : nullptr; }

const KernelTable* Avx512Kernels() {
  static const KernelTable table = Overlay(kAvx2Table, kAvx512Table);
  return Found().avx512 ? &table : nullptr;
}

const KernelTable* Avx512VnniKernels() {
  static const KernelTable table = Overlay(Overlay(kAvx2Table, kAvx512Table), kAvx512VnniTable);
  return Found().avx512_vnni ? &table : nullptr;
}

}  // namespace moepool

#else

namespace moepool {
const KernelTable* Avx2Kernels() { return nullptr; }
const KernelTable* Avx512Kernels() { return nullptr; }
const KernelTable* Avx512VnniKernels() { return nullptr; }
}  // namespace moepool

#endif

namespace moepool {

std::span<const KernelTable* const> AvailableKernels() {
  struct Tables {
    Tables() {
      for (const KernelTable* t : {ScalarKernels(), Avx2Kernels(), Avx512Kernels(), Avx512VnniKernels()}) {
        if (t != nullptr) table[count++] = t;
      }
    }
    const KernelTable* table[4] = {};
    size_t count = 0;
  };
  static const Tables tables;
  return {tables.table, tables.count};
}

}  // namespace moepool
