// Dequantisation against values computed by the gguf package (tests/golden/make_dequant.py), and windows on
// rows.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "common/tensor/matrix_view.h"

namespace moepool {
namespace {

struct Golden {
  MatrixView view;
  std::vector<std::byte> data;
  std::vector<float> values;
};

std::vector<Golden> ReadGolden() {
  std::ifstream in("tests/golden/dequant.bin", std::ios::binary);
  const std::string file((std::istreambuf_iterator<char>(in)), {});
  EXPECT_EQ(file.substr(0, 4), "DQ01") << "tests run in the root of the repository";
  std::vector<Golden> all;
  for (size_t at = 4; at < file.size();) {
    uint32_t head[3];
    std::memcpy(head, file.data() + at, sizeof(head));
    at += sizeof(head);
    Golden golden;
    golden.view.dtype = *DTypeFromGgml(head[0]);
    golden.view.cols = head[1];
    golden.view.rows = head[2];
    golden.view.row_stride_bytes = RowBytes(golden.view.dtype, golden.view.cols);
    golden.data.resize(static_cast<size_t>(golden.view.row_stride_bytes * golden.view.rows));
    golden.values.resize(static_cast<size_t>(golden.view.cols * golden.view.rows));
    std::memcpy(golden.data.data(), file.data() + at, golden.data.size());
    at += golden.data.size();
    std::memcpy(golden.values.data(), file.data() + at, golden.values.size() * 4);
    at += golden.values.size() * 4;
    golden.view.data = golden.data.data();
    all.push_back(std::move(golden));
  }
  return all;
}

TEST(Dequantize, EveryTypeEqualsTheReference) {
  const std::vector<Golden> all = ReadGolden();
  ASSERT_EQ(all.size(), static_cast<size_t>(kDTypeCount));
  for (const Golden& golden : all) {
    SCOPED_TRACE(std::string(Info(golden.view.dtype).name));
    const int64_t cols = golden.view.cols;
    for (int64_t row = 0; row < golden.view.rows; ++row) {
      std::vector<float> out(static_cast<size_t>(cols) + 1, 123.0f);  // one guard
      DequantizeRow(golden.view, row, out.data());
      for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(out[c], golden.values[row * cols + c]) << row << "," << c;
      EXPECT_EQ(out[cols], 123.0f);
    }
  }
}

TEST(Dequantize, WindowsBeginInsideSuperBlocks) {
  for (const Golden& golden : ReadGolden()) {
    SCOPED_TRACE(std::string(Info(golden.view.dtype).name));
    const int64_t step = Info(golden.view.dtype).quantized ? 32 : 1;
    for (int64_t begin = 0; begin <= golden.view.cols; begin += step) {
      for (int64_t end = begin; end <= golden.view.cols; end += step) {
        MatrixView view = golden.view;
        view.col_begin = begin;
        view.cols = end - begin;
        std::vector<float> out(static_cast<size_t>(view.cols) + 1, 123.0f);
        DequantizeRow(view, 1, out.data());
        ASSERT_EQ(std::memcmp(out.data(), golden.values.data() + golden.view.cols + begin,
                              static_cast<size_t>(view.cols) * 4),
                  0)
            << begin << " to " << end;
        ASSERT_EQ(out[view.cols], 123.0f);
      }
    }
  }
}

// Not in the golden file, whose reference reads 255 as 2^128.
TEST(Dequantize, AnMxfp4ScaleOf255IsNan) {
  std::vector<std::byte> block(17, std::byte{0x21});
  block[0] = std::byte{255};
  float out[32];
  DequantizeRow({DType::kMXFP4, 1, 32, block.data(), 17, 0}, 0, out);
  for (const float value : out) EXPECT_TRUE(std::isnan(value));
}

TEST(Dequantize, RowsMayStandApart) {
  const float rows[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}};
  MatrixView view;
  view.rows = 2;
  view.cols = 2;
  view.col_begin = 1;
  view.data = reinterpret_cast<const std::byte*>(rows);
  view.row_stride_bytes = sizeof(rows[0]);
  float out[2];
  DequantizeRow(view, 1, out);
  EXPECT_EQ(out[0], 6);
  EXPECT_EQ(out[1], 7);
}

}  // namespace
}  // namespace moepool
