// What the machine gives at most, measured before the kernels that are compared with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/kernels/kernels.h"
#include "nlohmann/json.hpp"

namespace moepool {

// Seconds of the fastest of the calls that fit into `seconds`, at least 3: others on the machine only add.
double FastestSeconds(double seconds, absl::FunctionRef<void()> body);

struct MachineLimits {
  std::map<int, double> read_gb_s;  // by streams a thread, with or without prefetching
  double best_read_gb_s = 0;
  double int8_gops = 0;  // dot products, a multiplication and an addition each
  double f32_gflops = 0;
};
nlohmann::json ToJson(const MachineLimits& limits);

// Of all threads of `pool` together. ResourceExhausted where there is no memory for 512 MiB.
absl::StatusOr<MachineLimits> MeasureLimits(const KernelTable& kernels, ThreadPool* pool, double seconds);

}  // namespace moepool
