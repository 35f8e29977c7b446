// The GPU's part of `moepool bench kernels`: products, experts, attention and sampling of the CUDA backend
// beside what the card gives at most.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"
#include "common/backend/cuda/device.h"
#include "nlohmann/json.hpp"

namespace moepool {

struct GpuBenchOptions {
  std::vector<std::string> types;  // of weights
  std::vector<int> rows;           // of activations
  std::vector<int> contexts;       // tokens that attention sees
  double seconds = 0.3;            // of each measurement
  int hidden = 4096;               // a multiple of 256
  int ffn = 6400;                  // a multiple of 256
  int experts = 16;                // of which a row takes two
  int heads = 32;
  int kv_heads = 8;
  int head_dim = 128;
  int vocab = 131072;  // a multiple of 32
  // Of weights or KV cache that calls take in turn, so that they come from memory rather than from a cache.
  uint64_t cold_bytes = uint64_t{256} << 20;
  uint64_t most_cache_bytes = uint64_t{4} << 30;  // of KV; what takes more is left out
};

// `backend` is over `device`; `note` takes each line for people. Times are those of calls queued one after
// another, with the host's part where it is the longer.
absl::StatusOr<nlohmann::json> BenchGpu(const GpuBenchOptions& options, Backend* backend, Device* device,
                                        const std::function<void(const std::string&)>& note);

}  // namespace moepool
