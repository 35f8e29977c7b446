#include "common/tensor/dtype.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST(DType, NamesAndNumbersLeadBack) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(*DTypeFromName(Info(dtype).name), dtype);
    EXPECT_EQ(*DTypeFromGgml(Info(dtype).ggml_type), dtype);
  }
  EXPECT_EQ(*DTypeFromName("q4_k"), DType::kQ4_K);
}

TEST(DType, RowBytes) {
  EXPECT_EQ(RowBytes(DType::kF32, 3), 12);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(RowBytes(DType::kQ6_K, 256), 210);
}

TEST(DType, ErrorsNameWhatWasAskedFor) {
  EXPECT_EQ(DTypeFromGgml(13).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(DTypeFromGgml(13).status().message()), HasSubstr("13 (Q5_K)"));
  EXPECT_THAT(std::string(DTypeFromGgml(4).status().message()),
              HasSubstr("4 (unknown)"));  // a type ggml removed
  EXPECT_FALSE(DTypeFromGgml(0xffffffff).ok());
  EXPECT_THAT(std::string(DTypeFromName("q5_k").status().message()), HasSubstr("'q5_k'"));
  EXPECT_FALSE(DTypeFromName("").ok());
}

}  // namespace
}  // namespace moepool
