// A client of a gateway's moepool.v1.Inference, for the command-line tool.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace moepool {

// Streams one answer; blocks until its end. `on_text` gets each piece as it comes; where it returns false the
// call is cancelled. Returns the last message (finish reason, usage, timings). Unavailable where no gateway
// answers.
absl::StatusOr<v1::GenerateResponse> StreamGenerate(const std::string& address,
                                                    const v1::GenerateRequest& request,
                                                    absl::Duration deadline,
                                                    const std::function<bool(std::string_view)>& on_text);

}  // namespace moepool
