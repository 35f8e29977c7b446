// Random weights by counter: the bytes of any block of any tensor follow from (seed, tensor, block), so that
// they can be made in any order, by any process, without holding the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/model/model_source.h"

namespace moepool {

struct SynthTensor {
  TensorInfo info;
  float mean = 0;       // of F32, F16 and BF16; blocks of the quantised types have mean 0
  float deviation = 1;  // standard, of all elements
};

// Writes blocks [first, first + count) of the tensor's data, its blocks counted through all rows.
void FillBlocks(const SynthTensor& tensor, uint64_t seed, int64_t first, int64_t count, std::byte* out);

// Writes the tensor's bytes [offset, offset + out.size()).
void FillBytes(const SynthTensor& tensor, uint64_t seed, uint64_t offset, std::span<std::byte> out);

}  // namespace moepool
