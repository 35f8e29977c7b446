// When a request that was turned away may come back: a payload of its status, which each front end writes
// down in its own way (HTTP: Retry-After; gRPC: the trailer retry-after).
#pragma once

#include "absl/status/status.h"

namespace moepool {

// `status` with the time given. seconds >= 1.
absl::Status WithRetryAfter(absl::Status status, int seconds);
// The time given; without one, 1 where coming back may help (ResourceExhausted, Unavailable), else 0.
int RetryAfterSeconds(const absl::Status& status);

}  // namespace moepool
