// POST /v1/completions: the body, as OpenAI's clients and evaluation harnesses write it.
#pragma once

#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/infer_request.h"

namespace moepool {

inline constexpr size_t kMaxPrompts = 128;

struct CompletionsRequest {
  InferRequest infer;  // of each prompt; its input is set for each
  std::vector<std::variant<std::string, std::vector<int32_t>>> prompts;
  std::string model;  // empty: not given
  bool include_usage = false;
};

// InvalidArgument names the field and the value. A null is an absent field; fields that are not known are
// ignored. Defaults are OpenAI's: temperature 1, max_tokens 16.
absl::StatusOr<CompletionsRequest> ParseCompletionsRequest(std::string_view body);
std::vector<std::string> CompletionsFieldNames();

}  // namespace moepool
