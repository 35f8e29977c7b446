// Reference quantisers: round to nearest, no search for better scales. They serve synthetic models and tests;
// a file made for use comes from a quantiser that minimises its error.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/tensor/dtype.h"

namespace moepool {

// Writes RowBytes(dtype, cols) bytes: `row` [cols] in the format `dtype`. cols is a multiple of its
// block_cols, all values are finite.
void QuantizeRow(DType dtype, const float* row, int64_t cols, std::byte* out);

}  // namespace moepool
