// A window on a 2-D weight tensor as it lies in the file: `rows` whole rows, columns
// [col_begin, col_begin + cols) of each. An expert slice of a dense model's down projection is such a window,
// and may begin inside a 256-column super-block, but always at a multiple of 32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor/dtype.h"

namespace moepool {

struct MatrixView {
  DType dtype = DType::kF32;
  int64_t rows = 0;                 // outputs
  int64_t cols = 0;                 // inputs
  const std::byte* data = nullptr;  // column 0 of row 0, whatever col_begin is
  int64_t row_stride_bytes = 0;
  int64_t col_begin = 0;  // multiple of 32 for quantised types
};

// Writes columns [col_begin, col_begin + cols) of row `row` as f32, by the definition of the format.
void DequantizeRow(const MatrixView& view, int64_t row, float* out);

}  // namespace moepool
