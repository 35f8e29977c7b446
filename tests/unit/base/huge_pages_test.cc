#include "common/base/huge_pages.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>

#include "common/base/rounding.h"

namespace moepool {
namespace {

TEST(HugePagesTest, BeginOnOneAndEndWhereAsked) {
  for (const size_t pages : {size_t{1}, size_t{2}, size_t{5}}) {
    const size_t bytes = pages * kHugePageBytes;
    std::byte* const memory = MapHugePages(bytes);
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % kHugePageBytes, 0u);
    EXPECT_EQ(memory[0], std::byte{0});
    EXPECT_EQ(memory[bytes - 1], std::byte{0});
    memory[0] = memory[bytes - 1] = std::byte{1};
    EXPECT_EQ(munmap(memory, bytes), 0);
  }
}

TEST(HugePagesTest, NullWhereThereIsNoRoom) { EXPECT_EQ(MapHugePages(size_t{1} << 62), nullptr); }

TEST(RoundingTest, RoundsUp) {
  EXPECT_EQ(DivideUp(0, 32), 0);
  EXPECT_EQ(DivideUp(1, 32), 1);
  EXPECT_EQ(DivideUp(64, 32), 2);
  EXPECT_EQ(RoundUp(uint64_t{65}, uint64_t{64}), 128u);
  EXPECT_EQ(RoundUp(uint64_t{128}, uint64_t{64}), 128u);
}

}  // namespace
}  // namespace moepool
