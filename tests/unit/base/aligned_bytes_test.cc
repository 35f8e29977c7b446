#include "common/base/aligned_bytes.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>

namespace moepool {
namespace {

TEST(AlignedBytesTest, IsZeroedAndAligned) {
  for (size_t bytes : {size_t{0}, size_t{1}, size_t{65}, size_t{3} << 20}) {
    auto memory = AlignedBytes::Create(bytes, "test");
    ASSERT_TRUE(memory.ok()) << memory.status();
    EXPECT_EQ(memory->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory->data()) % 64, 0u);
    for (size_t i = 0; i < bytes; ++i) ASSERT_EQ(memory->data()[i], std::byte{0});
  }
}

TEST(AlignedBytesTest, NamesWhatDidNotFit) {
  const auto memory = AlignedBytes::Create(std::numeric_limits<size_t>::max() - 5, "weights");
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(std::string(memory.status().message()).find("weights"), std::string::npos);
}

}  // namespace
}  // namespace moepool
