// What experts take where they are held: weights in the kernels' layout (common/kernels/packed.h), which all
// backends share. Files have others: an expert in Q4_K takes 3 % more than in its file.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model_source.h"

namespace moepool {

// Bytes of Matrix::bytes() of each expert's matrices, by layer and expert [layers * experts]: what placement
// weighs, and workers' limits are held against. Reads no weights. InvalidArgument where a matrix is of a
// shape that cannot be packed.
absl::StatusOr<std::vector<uint64_t>> PackedExpertBytes(const ModelSource& source);

}  // namespace moepool
