// Packing: a row's place in its group and its neighbours do not matter, and nothing else is touched. What a
// packed matrix means is tested by its products (matmul_test.cc).
#include <algorithm>

#include "common/kernels/packed.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {
namespace {

// Products of the scalar kernel with one row of activations in both forms.
std::vector<float> Multiply(const PackedMatrix& w) {
  std::mt19937_64 rng(kTestSeed);
  const int64_t cols = w.cols;
  std::vector<int8_t> q(static_cast<size_t>(cols + 31) / 32 * 32);
  std::vector<float> scale(q.size() / 32, 0.25f);
  std::vector<float> f32(static_cast<size_t>(cols));
  std::vector<ActivationBlock> blocks(scale.size());
  for (int8_t& x : q) x = static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
  for (float& x : f32) x = static_cast<float>(rng() % 1000) - 500;
  ScalarKernels()->activation_blocks(q.data(), scale.data(), static_cast<int64_t>(q.size()), blocks.data());
  const int32_t index[1] = {0};
  const int64_t width = w.groups() * kGroupRows;
  std::vector<float> out(static_cast<size_t>(width));
  ScalarKernels()->matmul[static_cast<int>(w.dtype)](
      w.weights, 0, w.groups(), {blocks.data(), f32.data(), cols, index, 1}, out.data(), width);
  out.resize(static_cast<size_t>(w.rows));
  return out;
}

class PackRowsTest : public ::testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(AllTypes, PackRowsTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& info) { return std::string(Info(info.param).name); });

TEST_P(PackRowsTest, SixteenRowsAtOnceAreSixteenRowsAlone) {
  const bool quantized = Info(GetParam()).quantized;
  for (const int64_t rows : {1, 2, 15, 16, 17, 35}) {
    for (auto [col_begin, cols] : std::vector<std::pair<int64_t, int64_t>>{
             {0, 32}, {0, 256}, {32, 96}, {224, 64}, {96, 576}, {0, quantized ? 320 : 43}}) {
      const RandomWeights w = MakeWeights(GetParam(), rows, col_begin, cols, Scales::kOrdinary,
                                          Codes::kRandom, kTestSeed + static_cast<uint64_t>(rows + cols));
      const auto together = Pack(w.view);
      ASSERT_TRUE(together.ok()) << together.status();
      const std::vector<float> y = Multiply(*together);
      for (int64_t row = 0; row < rows; ++row) {
        MatrixView alone = w.view;
        alone.data += row * alone.row_stride_bytes;
        alone.rows = 1;
        const auto packed = Pack(alone);
        ASSERT_TRUE(packed.ok()) << packed.status();
        EXPECT_TRUE(SameFloats(Multiply(*packed), {y[static_cast<size_t>(row)]}))
            << "row " << row << " of " << rows << ", columns " << col_begin << " + " << cols;
      }
    }
  }
}

TEST_P(PackRowsTest, WritesItsOwnBytesAlone) {
  const RandomWeights w = MakeWeights(GetParam(), 21, 32, 96, Scales::kOrdinary, Codes::kRandom, kTestSeed);
  const auto plan = PlanPack(w.view);
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto expected = Pack(w.view);
  ASSERT_TRUE(expected.ok()) << expected.status();
  ASSERT_EQ(plan->bytes(), expected->bytes());
  const size_t bytes = plan->bytes();
  std::vector<std::byte> memory(bytes + 192, std::byte{0xa5});
  std::byte* const to = memory.data() + 64;
  std::fill_n(to, bytes, std::byte{0});
  ASSERT_TRUE(PackInto(w.view, *plan, to).ok());
  EXPECT_EQ(std::memcmp(to, expected->weights.data, bytes), 0);
  for (size_t i = 0; i < memory.size(); ++i) {
    if (i >= 64 && i < 64 + bytes) continue;
    EXPECT_EQ(memory[i], std::byte{0xa5}) << i;
  }
}

TEST_P(PackRowsTest, NamesTheRowThatIsNotFinite) {
  for (const int64_t row : {0, 9, 15, 16, 20}) {
    RandomWeights w = MakeWeights(GetParam(), 21, 0, 256, Scales::kOrdinary, Codes::kRandom, kTestSeed);
    PutNotFinite(GetParam(), FiniteOffsets(GetParam()).back(),
                 w.bytes.data() + row * w.view.row_stride_bytes);
    const auto packed = Pack(w.view);
    EXPECT_EQ(packed.status().code(), absl::StatusCode::kDataLoss);
    const std::string message(packed.status().message());
    EXPECT_NE(message.find("row " + std::to_string(row) + ","), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace moepool
