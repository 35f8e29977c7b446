// /tokenize and /detokenize as vLLM has them, whose form evaluation harnesses speak: {"prompt"} and
// {"tokens"}.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/json_fields.h"

namespace moepool {

struct PromptToTokenize {
  std::string text;
  bool add_special_tokens = true;  // BOS, where the model wants it
};

// Nothing where `body` has no such field: it is in the gateway's own form, or in none. Unknown fields are
// ignored.
absl::StatusOr<std::optional<PromptToTokenize>> ParsePromptToTokenize(std::string_view body);
absl::StatusOr<std::optional<std::vector<int32_t>>> ParseTokensToDetokenize(std::string_view body);
std::vector<std::string> PromptToTokenizeFieldNames();
std::vector<std::string> TokensToDetokenizeFieldNames();

}  // namespace moepool
