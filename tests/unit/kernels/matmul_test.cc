// Matrix products: every instruction set against the scalar form bit for bit, the scalar form against f64.
#include <algorithm>
#include <tuple>

#include "common/kernels/packed.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {
namespace {

// Random activations in both forms, with the sums.
struct Rows {
  Rows(int64_t rows, int64_t cols, uint64_t seed, float magnitude = 1.0f) : cols(cols) {
    std::mt19937_64 rng(seed);
    std::normal_distribution<float> normal;
    const int64_t padded = (cols + 31) / 32 * 32;
    f32.resize(rows * cols);
    q.resize(rows * padded);
    scale.resize(rows * padded / 32);
    blocks.resize(scale.size());
    for (float& x : f32) x = normal(rng) * magnitude;
    for (int8_t& x : q) x = static_cast<int8_t>(static_cast<int>(rng() % 255) - 127);
    for (float& x : scale) x = std::abs(normal(rng)) * magnitude;
    FillBlocks();
    for (int64_t i = 0; i < rows; ++i) index.push_back(static_cast<int32_t>(i));
  }
  void FillBlocks() {
    ScalarKernels()->activation_blocks(q.data(), scale.data(), static_cast<int64_t>(q.size()), blocks.data());
  }
  ActivationRows View() const {
    return {blocks.data(), f32.data(), cols, index.data(), static_cast<int64_t>(index.size())};
  }
  int64_t cols;
  std::vector<float> f32;
  std::vector<int8_t> q;
  std::vector<float> scale;
  std::vector<ActivationBlock> blocks;
  std::vector<int32_t> index;
};

std::vector<float> Multiply(const KernelTable& table, const PackedMatrix& w, const Rows& x) {
  const int64_t width = w.groups() * kGroupRows;
  GuardedFloats out(x.index.size() * width, 3);
  table.matmul[static_cast<int>(w.dtype)](w.weights, 0, w.groups(), x.View(), out.data(), width);
  EXPECT_TRUE(out.GuardsHold());
  return out.Values();
}

class MatMulTest : public ::testing::TestWithParam<DType> {};

INSTANTIATE_TEST_SUITE_P(AllTypes, MatMulTest, ::testing::ValuesIn(kAllTypes),
                         [](const auto& info) { return std::string(Info(info.param).name); });

TEST_P(MatMulTest, SimdEqualsScalarOverShapes) {
  const bool quantized = Info(GetParam()).quantized;
  for (const KernelTable* table : SimdTables()) {
    for (int64_t rows : {0, 1, 15, 16, 17, 33, 80}) {
      for (auto [col_begin, cols] : std::vector<std::pair<int64_t, int64_t>>{
               {0, 0}, {0, 32}, {0, 256}, {32, 96}, {224, 64}, {96, 576}, {0, quantized ? 320 : 43}}) {
        for (int64_t tokens : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 33}) {
          const RandomWeights w = MakeWeights(GetParam(), rows, col_begin, cols, Scales::kOrdinary,
                                              Codes::kRandom, kTestSeed + rows + cols);
          auto packed = Pack(w.view);
          ASSERT_TRUE(packed.ok()) << packed.status();
          const Rows x(tokens, cols, kTestSeed + tokens);
          EXPECT_TRUE(SameFloats(Multiply(*ScalarKernels(), *packed, x), Multiply(*table, *packed, x)))
              << table->name << ", rows " << rows << ", columns " << col_begin << " + " << cols << ", tokens "
              << tokens;
        }
      }
    }
  }
}

TEST_P(MatMulTest, SimdEqualsScalarAtExtremes) {
  for (const KernelTable* table : SimdTables()) {
    for (Scales scales : {Scales::kOrdinary, Scales::kTiny, Scales::kHuge}) {
      for (Codes codes : {Codes::kRandom, Codes::kAllZeroBits, Codes::kAllOneBits, Codes::kSignBit}) {
        for (int q : {-127, 0, 127}) {
          for (float magnitude : {1.0f, 1e-38f, 1e36f}) {
            const RandomWeights w = MakeWeights(GetParam(), 33, 0, 512, scales, codes, kTestSeed);
            auto packed = Pack(w.view);
            ASSERT_TRUE(packed.ok()) << packed.status();
            Rows x(5, 512, kTestSeed, magnitude);
            std::fill(x.q.begin(), x.q.end(), static_cast<int8_t>(q));
            x.FillBlocks();
            EXPECT_TRUE(SameFloats(Multiply(*ScalarKernels(), *packed, x), Multiply(*table, *packed, x)))
                << table->name << ", codes " << static_cast<int>(codes) << ", scales "
                << static_cast<int>(scales) << ", q " << q << ", magnitude " << magnitude;
          }
        }
      }
    }
  }
}

// Each block adds at most 2 rounded factors and 2 rounded fma: with u = 2^-24 and S the sum of the magnitudes
// of all terms, the error is under u S (2 blocks + 4), and under u S (columns + 1) for plain types.
TEST_P(MatMulTest, ScalarIsNearF64) {
  const bool quantized = Info(GetParam()).quantized;
  for (auto [col_begin, cols] : std::vector<std::pair<int64_t, int64_t>>{{0, 256}, {64, 736}, {480, 32}}) {
    const RandomWeights w =
        MakeWeights(GetParam(), 33, col_begin, cols, Scales::kOrdinary, Codes::kRandom, kTestSeed + cols);
    auto packed = Pack(w.view);
    ASSERT_TRUE(packed.ok()) << packed.status();
    const Rows x(3, cols, kTestSeed);
    const std::vector<float> y = Multiply(*ScalarKernels(), *packed, x);
    std::vector<float> row(cols);
    double largest_error = 0;
    for (int64_t r = 0; r < 33; ++r) {
      DequantizeRow(w.view, r, row.data());
      for (int64_t t = 0; t < 3; ++t) {
        double sum = 0;
        double magnitude = 0;
        for (int64_t c = 0; c < cols; ++c) {
          const int64_t at = t * cols + c;
          const double v = quantized ? double{x.scale[at / 32]} * x.q[at] : double{x.f32[at]};
          sum += row[c] * v;
          magnitude += 2 * w.largest * std::abs(v);  // scale * code, and the minimum where there is one
        }
        const double terms =
            quantized ? 2.0 * static_cast<double>(cols) / 32 + 4 : static_cast<double>(cols) + 1;
        const double error = std::abs(sum - y[t * 48 + r]);
        EXPECT_LE(error, 0x1p-24 * magnitude * terms);
        largest_error = std::max(largest_error, error);
      }
    }
    if (cols > 32) {
      EXPECT_GT(largest_error, 0)
          << "an exact result would mean that the test compares the kernel with itself";
    }
  }
}

TEST_P(MatMulTest, RowsDoNotDependOnTheirBatch) {
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  const RandomWeights w = MakeWeights(GetParam(), 40, 32, 288, Scales::kOrdinary, Codes::kRandom, kTestSeed);
  auto packed = Pack(w.view);
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (const KernelTable* table : tables) {
    Rows x(9, 288, kTestSeed);
    const std::vector<float> all = Multiply(*table, *packed, x);
    for (int32_t row = 0; row < 9; ++row) {
      x.index = {row};
      EXPECT_TRUE(
          SameFloats(Multiply(*table, *packed, x), {all.begin() + row * 48, all.begin() + (row + 1) * 48}));
    }
    x.index = {8, 0, 8, 3, 3};
    const std::vector<float> picked = Multiply(*table, *packed, x);
    for (size_t i = 0; i < x.index.size(); ++i) {
      const std::vector<float> one(picked.begin() + i * 48, picked.begin() + (i + 1) * 48);
      EXPECT_TRUE(SameFloats(one, {all.begin() + x.index[i] * 48, all.begin() + (x.index[i] + 1) * 48}));
    }
  }
}

TEST_P(MatMulTest, RangesOfGroupsAndStridesTouchNothingElse) {
  const RandomWeights w = MakeWeights(GetParam(), 80, 0, 256, Scales::kOrdinary, Codes::kRandom, kTestSeed);
  auto packed = Pack(w.view);
  ASSERT_TRUE(packed.ok()) << packed.status();
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  const Rows x(3, 256, kTestSeed);
  const std::vector<float> all = Multiply(*ScalarKernels(), *packed, x);
  for (const KernelTable* table : tables) {
    std::vector<float> out(3 * 100, -7.0f);
    table->matmul[static_cast<int>(GetParam())](packed->weights, 1, 4, x.View(), out.data(), 100);
    for (int t = 0; t < 3; ++t) {
      for (int i = 0; i < 100; ++i) {
        EXPECT_EQ(out[t * 100 + i], i < 48 ? all[t * 80 + 16 + i] : -7.0f) << table->name;
      }
    }
  }
}

TEST_P(MatMulTest, PaddedRowsAreZero) {
  const RandomWeights w = MakeWeights(GetParam(), 17, 0, 256, Scales::kOrdinary, Codes::kRandom, kTestSeed);
  auto packed = Pack(w.view);
  ASSERT_TRUE(packed.ok()) << packed.status();
  const std::vector<float> y = Multiply(*ScalarKernels(), *packed, Rows(1, 256, kTestSeed));
  for (int i = 17; i < 32; ++i) EXPECT_EQ(y[i], 0);
}

TEST_P(MatMulTest, PackRefusesScalesThatAreNotFinite) {
  for (const size_t at : FiniteOffsets(GetParam())) {
    RandomWeights w = MakeWeights(GetParam(), 3, 0, 256, Scales::kOrdinary, Codes::kRandom, kTestSeed);
    // The last block of the last row.
    PutNotFinite(GetParam(), at, w.bytes.data() + w.bytes.size() - Info(GetParam()).block_bytes);
    const auto packed = Pack(w.view);
    EXPECT_EQ(packed.status().code(), absl::StatusCode::kDataLoss) << at;
    EXPECT_NE(std::string(packed.status().message()).find("row 2"), std::string::npos) << packed.status();
  }
}

// One block in each of `rows` rows, all codes of row r being codes[r].
std::vector<std::byte> Mxfp4Blocks(const std::vector<int>& scales, const std::vector<int>& codes) {
  std::vector<std::byte> bytes;
  for (size_t row = 0; row < scales.size(); ++row) {
    bytes.push_back(static_cast<std::byte>(scales[row]));
    bytes.insert(bytes.end(), 16, static_cast<std::byte>(codes[row] * 0x11));
  }
  return bytes;
}
MatrixView Mxfp4View(const std::vector<std::byte>& blocks) {
  return {DType::kMXFP4, static_cast<int64_t>(blocks.size() / 17), 32, blocks.data(), 17, 0};
}

// Products with one column of 1 are the weights themselves, subnormal scales included, in every instruction
// set; the value is that of the formats' definition, computed in f64.
TEST(Mxfp4Test, EveryScaleAndCodeIsExact) {
  const double magnitudes[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  std::vector<const KernelTable*> tables = SimdTables();
  tables.push_back(ScalarKernels());
  std::vector<int> scales, codes;
  for (int e = 0; e <= 252; ++e) {
    for (int code = 0; code < 16; ++code) scales.push_back(e), codes.push_back(code);
  }
  const std::vector<std::byte> blocks = Mxfp4Blocks(scales, codes);
  auto packed = Pack(Mxfp4View(blocks));
  ASSERT_TRUE(packed.ok()) << packed.status();
  for (const KernelTable* table : tables) {
    for (const int column : {0, 5, 17, 31}) {
      Rows x(1, 32, kTestSeed);
      std::fill(x.q.begin(), x.q.end(), int8_t{0});
      x.q[static_cast<size_t>(column)] = 1;
      x.scale[0] = 1;
      x.FillBlocks();
      const std::vector<float> y = Multiply(*table, *packed, x);
      for (size_t row = 0; row < scales.size(); ++row) {
        const double value = std::ldexp(magnitudes[codes[row] & 7], scales[row] - 127);
        ASSERT_EQ(double{y[row]}, codes[row] < 8 ? value : -value)
            << table->name << ", E8M0 " << scales[row] << ", code " << codes[row];
      }
    }
  }
}

// d d_x is subnormal and rounded, in every instruction set alike.
TEST(Mxfp4Test, FactorsBelowTheLeastNormalAreRoundedAlike) {
  std::vector<int> scales, codes;
  for (int e = 0; e <= 40; ++e) scales.push_back(e), codes.push_back(1 + e % 15);
  const std::vector<std::byte> blocks = Mxfp4Blocks(scales, codes);
  auto packed = Pack(Mxfp4View(blocks));
  ASSERT_TRUE(packed.ok()) << packed.status();
  Rows x(3, 32, kTestSeed);
  x.scale = {0x1.234568p-10f, 0x1.fffffep-20f, 0x1.8p-22f};
  x.FillBlocks();
  const std::vector<float> scalar = Multiply(*ScalarKernels(), *packed, x);
  int subnormal = 0;
  for (const float y : scalar) subnormal += std::fpclassify(y) == FP_SUBNORMAL;
  EXPECT_GT(subnormal, 20);
  for (const KernelTable* table : SimdTables()) {
    EXPECT_TRUE(SameFloats(scalar, Multiply(*table, *packed, x))) << table->name;
  }
}

// 255 is NaN; with 253 and 254 the weights decide.
TEST(Mxfp4Test, PackRefusesScalesByNameWhoseWeightsAreNotFinite) {
  const auto pack = [](int scale, int code) {
    const std::vector<std::byte> blocks = Mxfp4Blocks({120, 121, scale, 122}, {1, 2, code, 3});
    return Pack(Mxfp4View(blocks)).status();
  };
  for (int code = 0; code < 16; ++code) {
    const absl::Status nan = pack(255, code);
    EXPECT_EQ(nan.code(), absl::StatusCode::kDataLoss) << code;
    EXPECT_EQ(std::string(nan.message()),
              "MXFP4 matrix of 4 x 32: the scale at row 2, column 0 is E8M0 255, NaN");
    EXPECT_TRUE(pack(252, code).ok()) << code;
    for (const int scale : {253, 254}) {
      const double magnitude = std::ldexp(std::abs(kMxfp4Values[code]), scale - 128);
      const absl::Status status = pack(scale, code);
      EXPECT_EQ(status.ok(), magnitude < 0x1p128) << scale << " " << code;
      if (!status.ok()) {
        EXPECT_EQ(std::string(status.message()),
                  "MXFP4 matrix of 4 x 32: the scale at row 2, column 0 is E8M0 " + std::to_string(scale) +
                      ", with which its weights are not finite");
      }
    }
  }
}

TEST(PackTest, RefusesColumnsThatFitNoBlock) {
  const RandomWeights w = MakeWeights(DType::kQ4_0, 2, 0, 64, Scales::kOrdinary, Codes::kRandom, kTestSeed);
  for (auto [begin, cols] : {std::pair<int64_t, int64_t>{0, 40}, {8, 32}, {0, -32}}) {
    MatrixView view = w.view;
    view.col_begin = begin;
    view.cols = cols;
    EXPECT_EQ(Pack(view).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

// Codes take the bits of the file; scales and minima at most 8 bits for every 16 or 32 columns.
TEST(PackTest, IsAlignedAndNearlyAsSmallAsTheFile) {
  const std::pair<DType, double> bits[] = {
      {DType::kQ4_0, 4.5},   {DType::kQ4_1, 5},      {DType::kQ5_0, 5.5},    {DType::kQ5_1, 6},
      {DType::kQ8_0, 8.5},   {DType::kQ2_K, 2.625},  {DType::kQ3_K, 3.5625}, {DType::kQ4_K, 4.625},
      {DType::kQ5_K, 5.625}, {DType::kQ6_K, 6.5625}, {DType::kIQ4_NL, 4.5},  {DType::kMXFP4, 4.25}};
  for (auto [dtype, expected] : bits) {
    const RandomWeights w = MakeWeights(dtype, 16, 0, 1024, Scales::kOrdinary, Codes::kRandom, kTestSeed);
    auto packed = Pack(w.view);
    ASSERT_TRUE(packed.ok()) << packed.status();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(packed->weights.data) % 64, 0u);
    EXPECT_EQ(packed->bytes(), 16 * 1024 * expected / 8) << Info(dtype).name;
  }
}

}  // namespace
}  // namespace moepool
