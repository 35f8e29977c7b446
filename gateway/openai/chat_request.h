// POST /v1/chat/completions: the body, as OpenAI's clients write it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/infer_request.h"

namespace moepool {

struct ChatRequest {
  InferRequest infer;
  std::string model;  // empty: not given
  bool include_usage = false;
};

// InvalidArgument names the field and the value. A null is an absent field; fields that are not known are
// ignored. Defaults are OpenAI's: temperature 1, as many tokens as the context has room for.
absl::StatusOr<ChatRequest> ParseChatRequest(std::string_view body);
std::vector<std::string> ChatFieldNames();

}  // namespace moepool
