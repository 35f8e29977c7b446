// Work that can fail, shared out over threads of its own: for what takes long and must leave the backend's
// pool to others, such as loading.
#pragma once

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"

namespace moepool {

// Calls body(i) once for each i in [0, n), from `threads` threads of which the caller is one; 0: one for
// each processor that this process may run on.
// After a failure no more are begun. The status is that of the smallest i that failed.
absl::Status ParallelStatus(int64_t n, int threads, absl::FunctionRef<absl::Status(int64_t)> body);

}  // namespace moepool
