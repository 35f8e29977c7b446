// From a file's metadata to a ModelConfig, by the family's row (families.h), and one check that every tensor
// the family needs is there in the shape that the configuration gives it.
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

// `fallback_name` stands in for an absent general.name. Factors of the frequencies are left empty
// (SetRopeFactors).
//   InvalidArgument: a hyperparameter is missing, of the wrong type or out of range: the key and both values.
//   Unimplemented: a family or an option that is not built in, which is named.
absl::StatusOr<ModelConfig> DescribeModel(const GgufMetadata& metadata, const TensorTable& tensors,
                                          std::string_view fallback_name);

// InvalidArgument: a tensor is missing, or has another shape or type than `config` gives it: the tensor and
// both values. Unimplemented: a tensor that the family as built in does not use, which would change its
// answers.
absl::Status CheckTensors(const ModelConfig& config, const TensorTable& tensors);

// Divisors of the rotary frequencies, F32 [rope.dims / 2]: Llama 3's, optional, or LongRoPE's, both or none.
inline constexpr std::string_view kRopeFreqsTensor = "rope_freqs.weight";
inline constexpr std::string_view kRopeShortTensor = "rope_factors_short.weight";
inline constexpr std::string_view kRopeLongTensor = "rope_factors_long.weight";

// Sets rope.long_factors from the last of these, rope.freq_factors from the others. InvalidArgument where a
// factor is not positive and finite, or their number is not rope.dims / 2.
absl::Status SetRopeFactors(std::string_view tensor, std::span<const float> factors, ModelConfig* config);

}  // namespace moepool
