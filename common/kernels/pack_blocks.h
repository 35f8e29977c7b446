// 16 rows and 32 columns from blocks of the file's format to their place in packed.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/tensor/dtype.h"

namespace moepool {

// Bytes of one group's parts of a block (packed.h); for unquantised types of one column.
struct BlockParts {
  int64_t codes;
  int64_t scales;
  int64_t supers;  // of a super-block
};
BlockParts Parts(DType dtype);

// Where a group's share of one block goes. Written whole, but for the superscales and for rows of scales past
// `rows` of PackBlocks, which are zeros before.
struct PackTarget {
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* supers;
};

// Row r of `rows` (1 to 16) has its block at block + r * stride_bytes; `sub` is the 32 columns within it.
// False where a scale is not finite.
bool PackBlocks(DType dtype, const uint8_t* block, int64_t stride_bytes, int rows, int sub,
                const PackTarget& to);

inline uint16_t LoadLittle16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline bool HalfIsFinite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

}  // namespace moepool
