// common/trunk/trunk.h to the messages of trunk.proto and back.
#pragma once

#include "absl/status/statusor.h"
#include "common/trunk/trunk.h"
#include "proto/trunk.pb.h"

namespace moepool {

trunk::v1::TrunkRequest ToProto(const SequenceRequest& request);
SequenceRequest FromProto(const trunk::v1::TrunkRequest& request);
trunk::v1::ScoreRequest ToScoreProto(const SequenceRequest& request);
SequenceRequest FromProto(const trunk::v1::ScoreRequest& request);

trunk::v1::TokenLogprobs ToProto(const TokenLogprobs& logprobs);
TokenLogprobs FromProto(const trunk::v1::TokenLogprobs& proto);

trunk::v1::FinishReason ToProto(FinishReason reason);
FinishReason FromProto(trunk::v1::FinishReason reason);

trunk::v1::ModelDescription ToProto(const ModelInfo& info);
// DataLoss where a field cannot be true of any model.
absl::StatusOr<ModelInfo> FromProto(trunk::v1::ModelDescription description);

trunk::v1::Pool ToProto(const PoolInfo& pool);
PoolInfo FromProto(const trunk::v1::Pool& pool);

}  // namespace moepool
