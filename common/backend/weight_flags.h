// The flags by which a process says where its weights lie. Every process that has a backend takes the same.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/backend/backend.h"

namespace CLI {
class App;
}

namespace moepool {

struct WeightFlags {
  std::string weights = "read";
  std::string cache = "on";
  uint64_t cache_limit_bytes = WeightOptions().cache_limit_bytes;
};

// --weights --weights-cache --weights-cache-limit
void AddWeightFlags(CLI::App* app, WeightFlags* flags);

// InvalidArgument where they contradict each other or name no directory.
absl::StatusOr<WeightOptions> ToWeightOptions(const WeightFlags& flags);

}  // namespace moepool
