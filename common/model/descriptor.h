// From a file's metadata to a ModelConfig: one row of a table for each family, and one check that every
// tensor the family needs is there in the shape that the configuration gives it.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/model/config.h"
#include "common/model/gguf_metadata.h"
#include "common/model/tensor_table.h"

namespace moepool {

// `fallback_name` stands in for an absent general.name. freq_factors are left empty (SetFreqFactors).
//   InvalidArgument: a hyperparameter is missing, of the wrong type or out of range: the key and both values.
//   Unimplemented: a family or an option that is not built in, which is named.
absl::StatusOr<ModelConfig> DescribeModel(const GgufMetadata& metadata, const TensorTable& tensors,
                                          std::string_view fallback_name);

// InvalidArgument: a tensor is missing, or has another shape or type than `config` gives it: the tensor and
// both values. Unimplemented: a tensor that the family as built in does not use, which would change its
// answers.
absl::Status CheckTensors(const ModelConfig& config, const TensorTable& tensors);

inline constexpr std::string_view kRopeFreqsTensor = "rope_freqs.weight";  // F32 [rope.dims / 2], optional

// InvalidArgument where a factor is not positive and finite, or their number is not rope.dims / 2.
absl::Status SetFreqFactors(std::span<const float> factors, ModelConfig* config);

}  // namespace moepool
