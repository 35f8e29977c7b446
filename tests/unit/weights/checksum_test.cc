// The checksum: sees every single change, and does not see how its bytes were cut.
#include "common/weights/checksum.h"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace moepool {
namespace {

std::vector<std::byte> Counting(size_t bytes) {
  std::vector<std::byte> data(bytes);
  for (size_t i = 0; i < bytes; ++i) data[i] = static_cast<std::byte>(i * 131 + i / 256);
  return data;
}

TEST(ChecksumTest, EveryBitCounts) {
  for (const size_t bytes : {1, 8, 63, 64, 65, 200}) {
    std::vector<std::byte> data = Counting(bytes);
    std::set<uint64_t> values = {ChecksumOf(data)};
    for (size_t i = 0; i < bytes; ++i) {
      for (int bit = 0; bit < 8; ++bit) {
        data[i] ^= static_cast<std::byte>(1 << bit);
        EXPECT_TRUE(values.insert(ChecksumOf(data)).second)
            << bytes << " bytes, byte " << i << " bit " << bit;
        data[i] ^= static_cast<std::byte>(1 << bit);
      }
    }
  }
}

TEST(ChecksumTest, LengthAndOrderCount) {
  std::set<uint64_t> values;
  for (size_t bytes = 0; bytes < 300; ++bytes) {
    EXPECT_TRUE(values.insert(ChecksumOf(std::vector<std::byte>(bytes))).second) << bytes << " zeros";
  }
  std::vector<std::byte> data = Counting(256);
  const uint64_t before = ChecksumOf(data);
  std::swap_ranges(data.begin(), data.begin() + 64, data.begin() + 64);
  EXPECT_NE(ChecksumOf(data), before) << "two blocks changed places";
}

TEST(ChecksumTest, CutsDoNotCount) {
  const std::vector<std::byte> data = Counting(1000);
  const std::span<const std::byte> all(data);
  for (size_t cut = 0; cut <= 960; cut += 64) {
    Checksum checksum;
    checksum.Update(all.first(cut));
    checksum.Update(all.subspan(cut));
    EXPECT_EQ(checksum.Value(), ChecksumOf(all)) << cut;
  }
}

}  // namespace
}  // namespace moepool
