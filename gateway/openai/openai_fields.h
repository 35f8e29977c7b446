// What the bodies of OpenAI's endpoints have in common.
#pragma once

#include <string>

#include "gateway/infer_request.h"
#include "gateway/json_fields.h"

namespace moepool {

inline constexpr double kOpenAiTemperature = 1;

struct OpenAiFields {
  std::string model;           // empty: not given
  bool include_usage = false;  // of stream_options
};

const JsonFields<OpenAiFields>& OpenAiFieldTable();

// GenerationFields, which also take what clients of other servers send for "none": seed -1 and top_k -1, as
// vLLM and llama-server have them, and stops that are empty. A seed below -1 is the unsigned one of the same
// 64 bits, since OpenAI's seeds are signed.
const JsonFields<InferRequest>& OpenAiGenerationFields();

}  // namespace moepool
