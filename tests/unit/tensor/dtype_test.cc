#include "common/tensor/dtype.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(DType, NamesAndNumbersLeadBack) {
  for (int i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(*DTypeFromName(Info(dtype).name), dtype);
    EXPECT_EQ(*DTypeFromGgml(Info(dtype).ggml_type), dtype);
  }
  EXPECT_EQ(*DTypeFromName("q4_k"), DType::kQ4_K);
  EXPECT_EQ(*DTypeFromName("iq4_nl"), DType::kIQ4_NL);
  EXPECT_EQ(*DTypeFromName("mxfp4"), DType::kMXFP4);
  EXPECT_EQ(*DTypeFromGgml(39), DType::kMXFP4);
  EXPECT_THAT(DTypeNames(), ::testing::StartsWith("F32, F16, BF16, Q4_0, "));
}

TEST(DType, RowBytes) {
  EXPECT_EQ(RowBytes(DType::kF32, 3), 12);
  EXPECT_EQ(RowBytes(DType::kQ4_0, 64), 36);
  EXPECT_EQ(RowBytes(DType::kQ5_1, 64), 48);
  EXPECT_EQ(RowBytes(DType::kQ3_K, 512), 220);
  EXPECT_EQ(RowBytes(DType::kQ4_K, 512), 288);
  EXPECT_EQ(RowBytes(DType::kQ6_K, 256), 210);
  EXPECT_EQ(RowBytes(DType::kMXFP4, 64), 34);
}

TEST(DType, ErrorsNameWhatWasAskedFor) {
  EXPECT_EQ(DTypeFromGgml(23).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(DTypeFromGgml(23).status().message()), HasSubstr("23 (IQ4_XS)"));
  EXPECT_THAT(std::string(DTypeFromGgml(4).status().message()),
              HasSubstr("4 (unknown)"));  // a type ggml removed
  EXPECT_FALSE(DTypeFromGgml(0xffffffff).ok());
  EXPECT_THAT(std::string(DTypeFromName("q7_k").status().message()),
              AllOf(HasSubstr("'q7_k'"), HasSubstr(DTypeNames())));
  EXPECT_FALSE(DTypeFromName("").ok());
}

}  // namespace
}  // namespace moepool
