// Asks a process how it is, as probes do.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace moepool {

// OK where grpc.health.v1 at `address` (host:port) says that `service` is served; the empty name asks for the
// process. FailedPrecondition with its word where it says anything else, NotFound where it knows no such
// service, Unavailable, DeadlineExceeded.
absl::Status CheckHealth(const std::string& address, const std::string& service, absl::Duration limit);

}  // namespace moepool
