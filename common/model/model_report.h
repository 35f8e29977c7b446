// What a person asks of a model file: its metadata, its tensors, where its bytes go, and whether moepool
// serves it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/config.h"
#include "common/model/model_source.h"

namespace moepool {

struct TypeTotal {
  DType dtype = DType::kF32;
  int64_t tensors = 0;
  uint64_t bytes = 0;
};

struct ModelReport {
  std::string path;
  uint64_t file_bytes = 0;
  uint32_t gguf_version = 0;
  uint32_t alignment = 0;
  std::vector<std::pair<std::string, std::string>> metadata;  // by key; long values abridged
  std::vector<TensorInfo> tensors;                            // in the file's order
  std::vector<TypeTotal> types;                               // by DType; those that occur
  absl::Status servable;  // why not, otherwise OK and what follows is filled
  ModelConfig config;
  uint64_t trunk_bytes = 0;   // of tensors that the router opens
  uint64_t expert_bytes = 0;  // of tensors that workers share out
  uint64_t smallest_expert_bytes = 0;
  uint64_t largest_expert_bytes = 0;
  std::vector<std::string> warnings;  // served, but perhaps not as meant
};

// Fails only where the container itself is malformed (OpenGguf's errors).
absl::StatusOr<ModelReport> DescribeGguf(const std::string& path);

// For a terminal. `all_tensors`: every tensor rather than the totals alone.
std::string ToString(const ModelReport& report, bool all_tensors);

}  // namespace moepool
