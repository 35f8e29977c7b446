// One row's 32 columns from a block of the file's format to their place in the planes of packed.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "common/tensor/dtype.h"

namespace moepool {

// Bytes of one group and block in each plane; for unquantised types of one column.
struct PlaneBytes {
  int64_t codes;
  int64_t scales;
  int64_t supers;  // of a super-block
};
PlaneBytes Planes(DType dtype);

// Where one row's share of a group and block goes; zeros before.
struct PackTarget {
  uint8_t* codes;
  uint8_t* scales;
  uint8_t* supers;
  int lane;
};

// `block` is the file's own, `sub` the 32 columns within it. False where a scale of the block is not finite.
bool PackBlock(DType dtype, const uint8_t* block, int sub, const PackTarget& to);

inline uint16_t LoadLittle16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

inline bool HalfIsFinite(uint16_t half) { return (half & 0x7c00) != 0x7c00; }

}  // namespace moepool
