// A client of a gateway's moepool.v1.Inference, for the command-line tool.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace moepool {

// Streams the answers to one request; blocks until their end. `on_message` gets each message as it comes;
// where it returns false the call is cancelled. Returns the last message (usage, timings). Unavailable where
// no gateway answers.
absl::StatusOr<v1::GenerateResponse> StreamGenerate(
    const std::string& address, const v1::GenerateRequest& request, absl::Duration deadline,
    const std::function<bool(const v1::GenerateResponse&)>& on_message);

}  // namespace moepool
