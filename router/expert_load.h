// How many tokens each expert of each layer has been given, since the start and in the last minute.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/model/gate_policy.h"
#include "router/last_minute.h"
#include "router/pool.h"

namespace moepool {

// Thread-safe: the engine's thread adds a layer at a time, whoever asks reads.
class ExpertLoad {
 public:
  ExpertLoad(int layers, int experts, int experts_per_token);

  // What the gate of `layer` chose: selected [rows * experts_per_token]. Rows with skip[row] count not.
  void Add(int layer, std::span<const SelectedExpert> selected, std::span<const uint8_t> skip,
           absl::Time now);

  struct Tokens {
    std::vector<uint64_t> all;          // [layers * experts]
    std::vector<uint64_t> last_minute;  // [layers * experts]
  };
  Tokens Read(absl::Time now) const;

 private:
  const size_t experts_;
  const size_t experts_per_token_;
  mutable Mutex mutex_;
  std::vector<uint64_t> all_ GUARDED_BY(mutex_);
  LastMinute last_minute_ GUARDED_BY(mutex_);
};

// Of each layer, the tokens of the worker that has most of them over the mean of all workers of the table, as
// it places the experts now: 1 where all have the same, 0 where there were no tokens.
//   tokens [layers * experts].   Returns [layers].
std::vector<double> LoadRatios(std::span<const uint64_t> tokens, const RoutingTable& table, int layers,
                               int experts);

}  // namespace moepool
