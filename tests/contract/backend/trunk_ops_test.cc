// TrunkOps other than attention. On the CPU all instruction sets and numbers of threads give the bits of the
// scalar backend with one thread.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/tensor/matrix_view.h"
#include "tests/contract/backend/backend_contract.h"

namespace moepool {
namespace {

class TrunkOpsTest : public BackendContract {
 protected:
  std::unique_ptr<Backend> reference_ = Reference();
};
INSTANTIATE_TEST_SUITE_P(Backends, TrunkOpsTest, ::testing::ValuesIn(BackendCases()), CaseName);

std::vector<float> MatMul(Backend* backend, const FileMatrix& file, int tokens, const std::vector<float>& x,
                          const float* bias, const float* add, int64_t stride) {
  const auto w = LoadInto(backend, file);
  const DeviceRows rows(backend, tokens, static_cast<int>(file.view.cols), x);
  std::vector<float> y(tokens * stride, -5.0f);
  backend->Trunk().MatMul(*w, rows.view, bias, add, y.data(), stride);
  return y;
}

TEST_P(TrunkOpsTest, MatMulEqualsTheReference) {
  for (DType dtype : kAllTypes) {
    for (auto [rows, cols] :
         std::vector<std::pair<int, int>>{{0, 64}, {1, 32}, {33, 256}, {161, 96}, {530, 64}}) {
      for (int tokens : {0, 1, 5, 130}) {
        if (tokens == 130 && rows > 200) continue;
        const FileMatrix file = MakeFile(dtype, rows, cols, kTestSeed);
        const std::vector<float> x = Normal(tokens * cols, kTestSeed + 1);
        EXPECT_TRUE(SameFloats(MatMul(backend_.get(), file, tokens, x, nullptr, nullptr, rows),
                               MatMul(reference_.get(), file, tokens, x, nullptr, nullptr, rows)))
            << Info(dtype).name << " " << rows << "x" << cols << ", tokens " << tokens;
      }
    }
  }
}

TEST_P(TrunkOpsTest, ProductsOfOneInputAreThoseOfEachAlone) {
  const int cols = 256, tokens = 5, stride = 300;
  const FileMatrix files[] = {MakeFile(DType::kQ4_0, 130, cols, kTestSeed),
                              MakeFile(DType::kF32, 3, cols, kTestSeed + 1),
                              MakeFile(DType::kQ6_K, 65, cols, kTestSeed + 2)};
  const std::vector<float> x = Normal(tokens * cols, kTestSeed + 3);
  const std::vector<float> bias = Normal(300, kTestSeed + 4);
  std::vector<std::unique_ptr<Matrix>> matrices;
  std::vector<std::vector<float>> outputs(std::size(files), std::vector<float>(tokens * stride, -5.0f));
  std::vector<Product> products;
  for (size_t i = 0; i < std::size(files); ++i) {
    matrices.push_back(LoadInto(backend_.get(), files[i]));
    products.push_back(
        {matrices.back().get(), i == 1 ? nullptr : bias.data(), nullptr, outputs[i].data(), stride});
  }
  const DeviceRows rows(backend_.get(), tokens, cols, x);
  backend_->Trunk().MatMuls(products, rows.view);
  for (size_t i = 0; i < std::size(files); ++i) {
    EXPECT_TRUE(SameFloats(outputs[i],
                           MatMul(backend_.get(), files[i], tokens, x, products[i].bias, nullptr, stride)))
        << i;
  }
}

// Rows of one part, of two, and of many; one row of the residual has none.
TEST_P(TrunkOpsTest, CombineAddsPartsInOrderThenTheSharedRowThenTheResidual) {
  for (const int64_t hidden : {1, 48, 2080}) {
    const std::vector<int32_t> part_counts = {1, 2, 0, 7, 2, 33};
    std::vector<std::vector<float>> parts;
    std::vector<const float*> pointers;
    std::vector<PlannedAdd> adds;
    std::vector<CombineRow> rows;
    std::vector<float> sums;  // [rows, hidden]
    for (size_t row = 0; row < part_counts.size(); ++row) {
      const int32_t count = part_counts[row];
      const size_t first = parts.size(), first_add = adds.size();
      for (int32_t p = 0; p < count; ++p) {
        parts.push_back(Normal(hidden, kTestSeed + static_cast<uint32_t>(parts.size())));
      }
      for (int32_t p = count - 1; p > 0; --p) adds.push_back({(p - 1) / 2, p});  // children before parents
      std::vector<std::vector<float>> tree(parts.begin() + static_cast<ptrdiff_t>(first), parts.end());
      for (size_t a = first_add; a < adds.size(); ++a) {
        for (int64_t c = 0; c < hidden; ++c) tree[adds[a].dst][c] += tree[adds[a].src][c];
      }
      if (count == 0) tree.emplace_back(hidden);
      sums.insert(sums.end(), tree[0].begin(), tree[0].end());
      if (count == 0) continue;
      rows.push_back({static_cast<int32_t>(row), static_cast<int32_t>(first),
                      static_cast<int32_t>(parts.size()), static_cast<int32_t>(first_add),
                      static_cast<int32_t>(adds.size())});
    }
    for (const std::vector<float>& part : parts) pointers.push_back(part.data());
    const std::vector<float> before = Normal(static_cast<int64_t>(sums.size()), kTestSeed + 50);
    const std::vector<float> shared = Normal(static_cast<int64_t>(sums.size()), kTestSeed + 51);
    for (const float* const own : {static_cast<const float*>(nullptr), shared.data()}) {
      std::vector<float> residual = before;
      backend_->Trunk().Combine({pointers, adds, rows, own, hidden}, residual.data());
      for (size_t i = 0; i < sums.size(); ++i) {
        const bool skipped = i / static_cast<size_t>(hidden) == 2;
        const float routed = own == nullptr ? sums[i] : sums[i] + own[i];
        ASSERT_EQ(residual[i], skipped ? before[i] : before[i] + routed) << hidden << ", " << i;
      }
    }
  }
}

TEST_P(TrunkOpsTest, CombineTakesPartsOfTheDeviceAndOfTheHostAlike) {
  constexpr int64_t kHidden = 77;
  constexpr size_t kParts = 9;
  const std::vector<PlannedAdd> adds = {{2, 3}, {0, 2}, {0, 1}, {1, 4}, {0, 1}};
  const std::vector<CombineRow> rows = {{0, 0, 4, 0, 3}, {2, 4, 9, 3, 5}};
  std::vector<float> parts = Normal(kParts * kHidden, kTestSeed);
  const std::vector<float> before = Normal(3 * kHidden, kTestSeed + 1);
  std::vector<float> expected;
  for (const unsigned which : {0u, 0x1ffu, 0x0aau, 0x155u}) {  // of the parts, those on the device
    std::vector<float> on_device = parts;
    std::vector<const float*> pointers;
    std::vector<uint8_t> flags;
    for (size_t p = 0; p < kParts; ++p) {
      flags.push_back(which >> p & 1);
      pointers.push_back((flags[p] != 0 ? on_device : parts).data() + p * kHidden);
    }
    std::vector<float> residual = before;
    backend_->Trunk().Combine({pointers, adds, rows, nullptr, kHidden, flags}, residual.data());
    backend_->Trunk().Fetch({});
    if (which == 0) expected = residual;
    EXPECT_TRUE(SameFloats(residual, expected)) << which;
    EXPECT_TRUE(SameFloats(parts, Normal(kParts * kHidden, kTestSeed))) << "the host's are as they came";
  }
}

TEST_P(TrunkOpsTest, PackGathersRowsAsFramesHaveThem) {
  constexpr int kRows = 11;
  constexpr std::byte kGuard{0x5c};
  for (const int cols : {7, 32, 4128}) {
    const DeviceRows x(backend_.get(), kRows, cols, Normal(kRows * cols, kTestSeed));
    for (const std::vector<int32_t>& rows :
         std::vector<std::vector<int32_t>>{{}, {4}, {10, 0, 3, 4}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}) {
      const size_t n = static_cast<size_t>(cols);
      for (const bool quantized : {false, true}) {
        if (quantized && cols % 32 != 0) continue;
        Activations form = x.view;
        (quantized ? form.f32 : form.scale) = nullptr;
        if (!quantized) form.q = nullptr;
        std::vector<std::byte> expected;
        const auto append = [&](const void* bytes, size_t count) {
          const auto* const begin = static_cast<const std::byte*>(bytes);
          expected.insert(expected.end(), begin, begin + count);
        };
        for (const int32_t row : rows) {
          const size_t at = static_cast<size_t>(row) * n;
          if (quantized) {
            append(x.view.q + at, n);
          } else {
            append(x.view.f32 + at, n * sizeof(float));
          }
        }
        for (const int32_t row : rows) {
          if (quantized) append(x.view.scale + static_cast<size_t>(row) * n / 32, n / 32 * sizeof(float));
        }
        const auto to = DeviceRows::Floats(backend_.get(), static_cast<int64_t>(expected.size() / 4 + 16));
        std::fill_n(to->data(), to->bytes(), kGuard);
        backend_->Trunk().Pack(form, rows, to->data());
        backend_->Trunk().Fetch({});
        EXPECT_TRUE(std::equal(expected.begin(), expected.end(), to->data())) << cols << ", " << rows.size();
        EXPECT_TRUE(std::all_of(to->data() + expected.size(), to->data() + to->bytes(),
                                [](std::byte b) { return b == kGuard; }));
      }
    }
  }
}

TEST_P(TrunkOpsTest, MatMulAddsBiasAndThenTheResidual) {
  const int rows = 37, cols = 64, tokens = 6;
  const int64_t stride = 50;
  const FileMatrix file = MakeFile(DType::kQ8_0, rows, cols, kTestSeed);
  const std::vector<float> x = Normal(tokens * cols, kTestSeed + 1);
  const std::vector<float> bias = Normal(rows, kTestSeed + 2);
  const std::vector<float> add = Normal(tokens * stride, kTestSeed + 3);
  const std::vector<float> plain = MatMul(backend_.get(), file, tokens, x, nullptr, nullptr, stride);
  const std::vector<float> both = MatMul(backend_.get(), file, tokens, x, bias.data(), add.data(), stride);
  // In place: `add` is the output.
  const auto w = LoadInto(backend_.get(), file);
  const DeviceRows in(backend_.get(), tokens, cols, x);
  std::vector<float> y = add;
  backend_->Trunk().MatMul(*w, in.view, nullptr, y.data(), y.data(), stride);
  for (int t = 0; t < tokens; ++t) {
    for (int r = 0; r < stride; ++r) {
      const int64_t at = t * stride + r;
      if (r < rows) {
        EXPECT_EQ(both[at], add[at] + (plain[at] + bias[r]));
        EXPECT_EQ(y[at], add[at] + plain[at]);
      } else {
        EXPECT_EQ(plain[at], -5.0f);
        EXPECT_EQ(y[at], add[at]);
      }
    }
  }
}

TEST_P(TrunkOpsTest, ARowIsTheSameAloneAndInABatch) {
  for (DType dtype : kAllTypes) {
    const int rows = 100, cols = 256, tokens = 67;
    const FileMatrix file = MakeFile(dtype, rows, cols, kTestSeed);
    const std::vector<float> x = Normal(tokens * cols, kTestSeed + 1);
    const std::vector<float> all = MatMul(backend_.get(), file, tokens, x, nullptr, nullptr, rows);
    for (int t : {0, 1, 63, 64, 66}) {
      const std::vector<float> one(x.begin() + t * cols, x.begin() + (t + 1) * cols);
      EXPECT_TRUE(SameFloats(MatMul(backend_.get(), file, 1, one, nullptr, nullptr, rows),
                             {all.begin() + t * rows, all.begin() + (t + 1) * rows}))
          << Info(dtype).name << " row " << t;
    }
  }
}

TEST_P(TrunkOpsTest, LoadedWeightsDoNotNeedTheirFile) {
  FileMatrix file = MakeFile(DType::kQ4_1, 20, 64, kTestSeed);
  const std::vector<float> x = Normal(64, kTestSeed);
  const std::vector<float> expected = MatMul(backend_.get(), file, 1, x, nullptr, nullptr, 20);
  const auto w = LoadInto(backend_.get(), file);
  EXPECT_EQ(w->dtype(), DType::kQ4_1);
  EXPECT_EQ(w->rows(), 20);
  EXPECT_EQ(w->cols(), 64);
  EXPECT_GE(w->bytes(), 20 * 64 * 5 / 8);
  std::fill(file.bytes.begin(), file.bytes.end(), std::byte{0xff});
  const DeviceRows rows(backend_.get(), 1, 64, x);
  std::vector<float> y(20);
  backend_->Trunk().MatMul(*w, rows.view, nullptr, nullptr, y.data(), 20);
  EXPECT_TRUE(SameFloats(y, expected));
}

TEST_P(TrunkOpsTest, LoadRefusesWhatItCannotUse) {
  FileMatrix file = MakeFile(DType::kQ4_0, 4, 64, kTestSeed);
  file.view.cols = 50;
  EXPECT_EQ(backend_->Load(file.view, {}).status().code(), absl::StatusCode::kInvalidArgument);
  file.view.cols = 64;
  file.bytes[18] = std::byte{0};
  file.bytes[19] = std::byte{0x7c};  // the second block's scale becomes infinity
  EXPECT_EQ(backend_->Load(file.view, {}).status().code(), absl::StatusCode::kDataLoss);
}

TEST_P(TrunkOpsTest, EmbedDequantisesRows) {
  for (DType dtype : kAllTypes) {
    const FileMatrix file = MakeFile(dtype, 50, 512, kTestSeed);
    const std::vector<int32_t> ids = {49, 0, 7, 7, 31, 2, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14};
    std::vector<float> x(ids.size() * 512);
    backend_->Trunk().Embed(file.view, ids, x.data());
    std::vector<float> row(512);
    for (size_t i = 0; i < ids.size(); ++i) {
      DequantizeRow(file.view, ids[i], row.data());
      EXPECT_TRUE(SameFloats({x.begin() + i * 512, x.begin() + (i + 1) * 512}, row));
    }
  }
}

TEST_P(TrunkOpsTest, NormFillsTheFormsAskedFor) {
  const int cols = 96;
  for (int rows : {1, 5, 200}) {
    const std::vector<float> x = Normal(rows * cols, kTestSeed);
    const std::vector<float> weight = Normal(cols, kTestSeed + 1);
    const std::vector<float> bias = Normal(cols, kTestSeed + 2);
    for (const NormWeights& norm : {NormWeights{NormKind::kRms, weight.data(), nullptr, 1e-5f},
                                    NormWeights{NormKind::kLayer, weight.data(), bias.data(), 1e-5f}}) {
      std::vector<uint8_t> faults(rows);
      DeviceRows both(backend_.get(), rows, cols);
      backend_->Trunk().Norm(norm, x.data(), &both.view, faults);
      DeviceRows only_q(backend_.get(), rows, cols);
      only_q.view.f32 = nullptr;
      backend_->Trunk().Norm(norm, x.data(), &only_q.view, faults);
      DeviceRows reference(reference_.get(), rows, cols);
      reference_->Trunk().Norm(norm, x.data(), &reference.view, faults);
      const int64_t n = int64_t{rows} * cols;
      EXPECT_EQ(std::memcmp(both.view.f32, reference.view.f32, n * 4), 0);
      for (const Activations* a : {&both.view, &only_q.view}) {
        EXPECT_EQ(std::memcmp(a->q, reference.view.q, n), 0);
        EXPECT_EQ(std::memcmp(a->scale, reference.view.scale, n / 32 * 4), 0);
      }
      backend_->Trunk().Fetch({});
      EXPECT_EQ(faults, std::vector<uint8_t>(rows));
    }
  }
}

TEST_P(TrunkOpsTest, FaultsMarkTheRowAndAreNeverCleared) {
  const int rows = 150, cols = 64;
  std::vector<float> x = Normal(rows * cols, kTestSeed);
  x[3 * cols + 63] = std::numeric_limits<float>::infinity();
  x[149 * cols] = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> weight(cols, 1.0f);
  std::vector<uint8_t> expected(rows);
  expected[3] = expected[149] = expected[10] = 1;
  std::vector<uint8_t> faults(rows);
  faults[10] = 1;
  DeviceRows normed(backend_.get(), rows, cols);
  backend_->Trunk().Norm({NormKind::kRms, weight.data(), nullptr, 1e-5f}, x.data(), &normed.view, faults);
  backend_->Trunk().Fetch({});
  EXPECT_EQ(faults, expected);
  faults.assign(rows, 0);
  faults[10] = 1;
  DeviceRows plain(backend_.get(), rows, cols);
  std::copy(x.begin(), x.end(), plain.view.f32);
  backend_->Trunk().Quantize(&plain.view, faults);
  backend_->Trunk().Fetch({});
  EXPECT_EQ(faults, expected);
}

TEST_P(TrunkOpsTest, GatherDrawsRowsToTheFront) {
  const int64_t cols = 300;
  const std::vector<float> before = Normal(9 * cols, kTestSeed);
  for (const std::vector<int32_t>& rows :
       {std::vector<int32_t>{}, {0}, {8}, {0, 1, 2}, {1, 2, 3, 7, 8}, {0, 2, 3, 8}}) {
    std::vector<float> x = before;
    backend_->Trunk().Gather(rows, cols, x.data());
    backend_->Trunk().Fetch({});
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(x[i * cols + c], before[rows[i] * cols + c]);
    }
    for (size_t i = static_cast<size_t>(rows.empty() ? 0 : rows.back() + 1) * cols; i < x.size(); ++i) {
      ASSERT_EQ(x[i], before[i]);
    }
  }
}

TEST_P(TrunkOpsTest, FetchGivesWhatWasWritten) {
  auto buffer = backend_->Allocate(1000).value();
  const std::vector<float> values = Normal(100, kTestSeed);
  buffer->Write(40, std::as_bytes(std::span(values)));
  Fetched fetched[] = {{buffer->data() + 40, 400}, {buffer->data() + 440, 60}, {nullptr, 0}};
  backend_->Trunk().Fetch(fetched);
  EXPECT_EQ(std::vector<float>(fetched[0].f32(), fetched[0].f32() + 100), values);
  for (int i = 0; i < 60; ++i) EXPECT_EQ(static_cast<std::byte*>(fetched[1].host)[i], std::byte{0});
}

TEST_P(TrunkOpsTest, DescribesItself) {
  EXPECT_EQ(backend_->Name(), GetParam().isa == "cuda" ? "cuda" : "cpu");
  EXPECT_EQ(backend_->NumericClass(), "cpu-1");
  for (DType dtype : kAllTypes) {
    for (Op op : {Op::kEmbed, Op::kMatMul, Op::kExpert}) EXPECT_TRUE(backend_->Supports(op, dtype));
  }
  auto buffer = backend_->Allocate(1000);
  ASSERT_TRUE(buffer.ok());
  EXPECT_EQ((*buffer)->bytes(), 1000u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>((*buffer)->data()) % 64, 0u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ((*buffer)->data()[i], std::byte{0});
  EXPECT_EQ(backend_->Allocate(size_t{1} << 63).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace moepool
