// Messages of moepool.v1.Inference to requests of the gateway's, and events back.
#pragma once

#include "absl/status/statusor.h"
#include "gateway/inference.h"
#include "proto/inference.pb.h"

namespace moepool {

// InvalidArgument names the field, as InvalidField does. Ranges are left to ValidateInferRequest.
absl::StatusOr<InferRequest> FromProto(const v1::GenerateRequest& proto);

// What the event adds to a message of its answer's.
void AddToProto(const InferEvent& event, v1::GenerateResponse* message);

}  // namespace moepool
