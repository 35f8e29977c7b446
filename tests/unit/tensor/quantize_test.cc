// The reference quantisers: valid blocks whose error is bounded by the width of a code.
#include "common/tensor/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

constexpr uint64_t kSeed = 4711;
constexpr int64_t kCols = 1024;

std::vector<float> RoundTrip(DType dtype, const std::vector<float>& row) {
  std::vector<std::byte> blocks(static_cast<size_t>(RowBytes(dtype, static_cast<int64_t>(row.size()))) + 1,
                                std::byte{0xa5});
  QuantizeRow(dtype, row.data(), static_cast<int64_t>(row.size()), blocks.data());
  EXPECT_EQ(blocks.back(), std::byte{0xa5}) << "wrote beyond the row";
  MatrixView view;
  view.dtype = dtype;
  view.rows = 1;
  view.cols = static_cast<int64_t>(row.size());
  view.data = blocks.data();
  std::vector<float> out(row.size());
  DequantizeRow(view, 0, out.data());
  return out;
}

class QuantizeTest : public ::testing::TestWithParam<int> {
 protected:
  DType dtype() const { return static_cast<DType>(GetParam()); }
  // Largest root of the mean squared error on normal values of deviation 1. A code's error is uniform: step /
  // sqrt(12), with steps of about 4.6 / 15 (4 bits over a block's range), 5.2 / 16, 2.3 / 127 and, over 16
  // columns, 2 / 31 for Q6_K, 3.5 / 3 for Q2_K and 2 / 4 for Q3_K, half whose far ends lose up to a step.
  // MXFP4 has 0.116 by the gguf package, as its steps grow with the value.
  double Bound() const {
    switch (dtype()) {
      case DType::kF32:
        return 0;
      case DType::kF16:
        return 3e-4;
      case DType::kBF16:
        return 2.5e-3;
      case DType::kQ8_0:
        return 7e-3;
      case DType::kQ6_K:
        return 2.5e-2;
      case DType::kQ5_0:
      case DType::kQ5_1:
      case DType::kQ5_K:
        return 0.05;
      case DType::kMXFP4:
        return 0.125;
      case DType::kQ3_K:
        return 0.17;
      case DType::kQ2_K:
        return 0.35;
      default:
        return 0.1;
    }
  }
};

TEST_P(QuantizeTest, NormalValuesComeBackWithinTheBound) {
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937_64 random(kSeed);
  std::normal_distribution<float> normal;
  for (const float scale : {1.0f, 0.02f, 30.0f}) {
    std::vector<float> row(kCols);
    for (float& x : row) x = scale * normal(random);
    const std::vector<float> back = RoundTrip(dtype(), row);
    double squares = 0;
    for (int64_t c = 0; c < kCols; ++c) squares += std::pow(static_cast<double>(back[c]) - row[c], 2);
    EXPECT_LE(std::sqrt(squares / kCols) / scale, Bound()) << "scale " << scale;
  }
}

TEST_P(QuantizeTest, ZerosAndConstantsSurvive) {
  for (const float value : {0.0f, 1.0f, -2.0f}) {
    for (const float back : RoundTrip(dtype(), std::vector<float>(256, value))) {
      ASSERT_NEAR(back, value, std::fabs(value) * 0.04) << value;
    }
  }
}

TEST_P(QuantizeTest, OneLargeValueIsKept) {
  for (const float peak : {8.0f, -8.0f}) {
    std::vector<float> row(256, 0.0f);
    row[77] = peak;
    EXPECT_NEAR(RoundTrip(dtype(), row)[77], peak, std::fabs(peak) * 0.04);
  }
}

// Scales and codes of single values among zeros: the largest magnitude is 4 to 8 units of the scale, ties go
// to the lower code, and floats of every size have a scale, 2^-127 the least.
TEST(QuantizeMxfp4, ScalesFollowTheLargestValue) {
  struct Case {
    float value;
    int scale;
    int code;
    float back;
  };
  for (const Case& c :
       {Case{4.0f, 127, 6, 4.0f}, Case{5.0f, 127, 6, 4.0f}, Case{5.0625f, 127, 7, 6.0f},
        Case{7.9375f, 127, 7, 6.0f}, Case{8.0f, 128, 6, 8.0f}, Case{-0.5f, 124, 14, -0.5f},
        Case{0x1p-124f, 1, 6, 0x1p-124f}, Case{0x1p-125f, 0, 6, 0x1p-125f}, Case{0x1p-128f, 0, 1, 0x1p-128f},
        Case{-0x1p-149f, 0, 0, 0.0f}, Case{0x1.fffffep127f, 252, 7, 0x1.8p127f}, Case{0.0f, 0, 0, 0.0f}}) {
    std::vector<float> row(32, 0.0f);
    row[18] = c.value;
    std::byte block[17];
    QuantizeRow(DType::kMXFP4, row.data(), 32, block);
    EXPECT_EQ(static_cast<int>(block[0]), c.scale) << c.value;
    EXPECT_EQ(static_cast<int>(block[1 + 2]), c.code << 4) << c.value;
    EXPECT_EQ(RoundTrip(DType::kMXFP4, row)[18], c.back) << c.value;
  }
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeTest, ::testing::Range(0, kDTypeCount), [](const auto& info) {
  return std::string(Info(static_cast<DType>(info.param)).name);
});

}  // namespace
}  // namespace moepool
