// Statuses that cross threads which nothing else orders. Copies of one share it by a count of references, and
// ThreadSanitizer, which does not see the count in Debian's uninstrumented abseil, takes the last one's
// deletion for a race.
#pragma once

#include "absl/status/status.h"

namespace moepool {

inline absl::Status UnsharedStatus(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

}  // namespace moepool
