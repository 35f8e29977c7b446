// --trace of a process: what it is, and a session whose early end is logged.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/trace.h"

namespace moepool {

inline constexpr char kTraceFlagHelp[] =
    "File to which what is done, and when, is added, in Chrome's trace format, until it has 1 GiB";

// As TraceSession::Start.
absl::StatusOr<std::unique_ptr<TraceSession>> StartTrace(const std::string& path, const std::string& process);

}  // namespace moepool
