// Probes run in every instruction set that the machine has, and count what they do.
#include "common/kernels/probes.h"

#include <gtest/gtest.h>

#include <vector>

namespace moepool {
namespace {

TEST(ProbesTest, OperationsGrowWithRoundsAndRegisters) {
  double narrower = 0;
  for (const KernelTable* table : AvailableKernels()) {
    const Probes& probes = ProbesFor(*table);
    for (auto probe : {probes.dot, probes.fma}) {
      EXPECT_EQ(probe(0), 0) << table->name;
      EXPECT_GT(probe(1), 0) << table->name;
      EXPECT_EQ(probe(1000), 1000 * probe(1)) << table->name;
    }
    EXPECT_GE(probes.fma(1), narrower) << table->name;
    narrower = probes.fma(1);
  }
}

TEST(ProbesTest, ReadsWhatItIsGivenAndNoMore) {
  const std::vector<std::byte> memory(8 * 512);  // a reader past the end shows under AddressSanitizer
  for (const KernelTable* table : AvailableKernels()) {
    for (int streams : {1, 2, 8}) ProbesFor(*table).read(memory.data(), 4096 / streams, streams, 8192);
  }
}

}  // namespace
}  // namespace moepool
