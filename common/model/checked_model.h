// A GGUF header that has passed every check: what each source of GGUF weights holds, wherever the bytes are.
#pragma once

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/digest.h"
#include "common/model/gguf_reader.h"
#include "common/model/tensor_table.h"
#include "common/model/tokenizer_spec.h"

namespace moepool {

struct CheckedModel {
  ModelConfig config;
  TokenizerSpec tokenizer;
  TensorTable tensors;
  std::vector<uint64_t> offsets;  // in the file, by the index of the tensor
};

// `read` is called for the few tensors that belong to the configuration.
absl::StatusOr<CheckedModel> CheckModel(GgufFile file, std::string_view fallback_name, GgufReadAt read);

}  // namespace moepool
