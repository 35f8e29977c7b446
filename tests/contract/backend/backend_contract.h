// What the backend suites share: the backends under test and rows in device memory.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "common/backend/backend.h"
#include "common/kernels/kernels.h"
#include "common/tensor/quantize.h"
#include "tests/unit/kernels/kernel_testing.h"

namespace moepool {

struct BackendCase {
  std::string isa;
  int threads;
};
inline void PrintTo(const BackendCase& c, std::ostream* os) {
  *os << c.isa << " with " << c.threads << " threads";
}

// Those that this program is about: of cpu_backends.cc or emulated_backends.cc.
std::vector<BackendCase> BackendCases();
std::unique_ptr<Backend> MakeCase(const BackendCase& c);

inline std::unique_ptr<Backend> MakeCpu(const BackendCase& c) {
  auto backend = MakeBackend({"cpu", c.isa, c.threads});
  EXPECT_TRUE(backend.ok()) << backend.status();
  return *std::move(backend);
}
// What all are compared with.
inline std::unique_ptr<Backend> Reference() { return MakeCpu({"scalar", 1}); }

class BackendContract : public ::testing::TestWithParam<BackendCase> {
 protected:
  std::unique_ptr<Backend> backend_ = MakeCase(GetParam());
};

inline std::string CaseName(const ::testing::TestParamInfo<BackendCase>& info) {
  return info.param.isa + "_" + std::to_string(info.param.threads);
}

inline std::vector<float> Normal(size_t n, uint64_t seed, float magnitude = 1.0f) {
  std::mt19937_64 rng(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(rng) * magnitude;
  return x;
}

// Rows in device memory, in both forms.
class DeviceRows {
 public:
  DeviceRows(Backend* backend, int rows, int cols) {
    const int64_t n = int64_t{rows} * cols;
    f32_ = Floats(backend, n);
    q_ = Floats(backend, (n + 3) / 4);
    scale_ = Floats(backend, n / 32 + 1);
    view = {rows, cols, f32_->f32(), reinterpret_cast<int8_t*>(q_->data()), scale_->f32()};
  }
  // Fills f32 and quantises it.
  DeviceRows(Backend* backend, int rows, int cols, const std::vector<float>& values)
      : DeviceRows(backend, rows, cols) {
    std::copy(values.begin(), values.end(), view.f32);
    if (cols % 32 == 0) {
      std::vector<uint8_t> faults(rows);
      backend->Trunk().Quantize(&view, faults);
      backend->Trunk().Fetch({});
    }
  }
  static std::unique_ptr<Buffer> Floats(Backend* backend, int64_t n) {
    auto buffer = backend->Allocate(static_cast<size_t>(n) * sizeof(float));
    EXPECT_TRUE(buffer.ok()) << buffer.status();
    return *std::move(buffer);
  }
  Activations view;

 private:
  std::unique_ptr<Buffer> f32_, q_, scale_;
};

// Normal values in the format `dtype`; columns may end short of a block where the file pads them.
struct FileMatrix {
  std::vector<std::byte> bytes;
  MatrixView view;
};

inline FileMatrix MakeFile(DType dtype, int64_t rows, int64_t cols, uint64_t seed, float magnitude = 0.05f) {
  const int64_t block = Info(dtype).block_cols;
  const int64_t file_cols = (cols + block - 1) / block * block;
  FileMatrix m;
  const int64_t row_bytes = RowBytes(dtype, file_cols);
  m.bytes.resize(static_cast<size_t>(rows * row_bytes));
  const std::vector<float> values = Normal(static_cast<size_t>(rows * file_cols), seed, magnitude);
  for (int64_t r = 0; r < rows; ++r) {
    QuantizeRow(dtype, values.data() + r * file_cols, file_cols, m.bytes.data() + r * row_bytes);
  }
  m.view = {dtype, rows, cols, m.bytes.data(), row_bytes, 0};
  return m;
}

inline std::unique_ptr<Matrix> LoadInto(Backend* backend, const FileMatrix& file) {
  auto matrix = backend->Load(file.view, {});
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  return *std::move(matrix);
}

}  // namespace moepool
