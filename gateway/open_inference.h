// Requests and answers in the tensors of KServe's open inference protocol (proto/open_inference.proto). A
// facade: a request becomes one of POST /infer's, which checks it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/inference.h"
#include "proto/open_inference.pb.h"

namespace moepool {

struct OpenInferRequest {
  InferRequest request;
  std::vector<std::string> outputs;  // those asked for; none: all
};

// InvalidArgument names the tensor or the parameter that is wrong. `stream`: what the call means where the
// request does not say.
absl::StatusOr<OpenInferRequest> ReadOpenInferRequest(const inference::ModelInferRequest& proto, bool stream);

// NotFound unless the model is called `name` and `version` is empty or "1".
absl::Status CheckModelName(const ServedModel& model, const std::string& name, const std::string& version);

// New text of an answer and, where that has ended, what is known of it then; of these, `outputs`. With
// `in_pieces`, says whether this is the last of them.
void FillOpenInferResponse(const InferEvent& event, const std::vector<std::string>& outputs, bool in_pieces,
                           inference::ModelInferResponse* response);

void FillModelMetadata(const ModelInfo& info, inference::ModelMetadataResponse* response);
void FillModelConfig(const ModelInfo& info, inference::ModelConfig* config);

}  // namespace moepool
