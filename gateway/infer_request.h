// One request for text, whichever front end it came through, and its reading from JSON.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/trunk/trunk.h"
#include "gateway/chat_messages.h"
#include "gateway/json_fields.h"
#include "nlohmann/json.hpp"

namespace moepool {

inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 1024;  // of one stop string
inline constexpr int32_t kMaxAnswers = 16;
inline constexpr int32_t kLengthOfContext = std::numeric_limits<int32_t>::max();
inline constexpr size_t kMaxTemplateVariables = 256;
inline constexpr size_t kMaxDryBreakers = 16;
inline constexpr size_t kMaxDryBreakerBytes = 40;  // of one breaker

enum class ToolChoiceKind : uint8_t { kAuto, kNone, kRequired, kFunction };

struct ToolChoice {
  ToolChoiceKind kind = ToolChoiceKind::kAuto;
  std::string name;  // of the function, with kFunction alone
};

enum class ResponseFormatKind : uint8_t { kText, kJsonObject, kJsonSchema, kGrammar };

struct ResponseFormat {
  ResponseFormatKind kind = ResponseFormatKind::kText;
  std::string text;  // the schema as JSON, or the grammar
};

struct InferRequest {
  std::variant<std::string, std::vector<ChatMessage>, std::vector<int32_t>>
      input;                     // prompt, messages or token ids
  bool raw = false;              // a prompt is fed without the chat template
  int32_t max_tokens = 256;      // kLengthOfContext: what the context leaves
  SamplingParams sampling;       // without seed and breakers
  std::optional<uint64_t> seed;  // of the first answer, each further one's is one more; none: drawn at random
  int32_t n = 1;                 // answers
  bool ignore_eos = false;       // ids that end generation do not
  std::vector<std::string> stop;
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};
  bool stream = false;
  nlohmann::ordered_json tools;  // as ReadTools makes it; null: none
  ToolChoice tool_choice;
  bool parallel_tool_calls = true;  // false: at most one call an answer
  ResponseFormat response_format;
  std::optional<int32_t> max_reasoning_tokens;  // no effect where the model does not think
  bool split_reasoning = true;  // what the model thinks is apart from its answer; false: part of the text
  nlohmann::ordered_json template_variables;  // more that the template sees; null: nothing
  bool echo = false;                          // the answer's text begins with the prompt's; not with messages
  bool prompt_logprobs = false;               // with sampling.top_logprobs; max_tokens may then be 0
  std::string request_id;                     // the client's, for logs; empty: none
  std::string traceparent;                    // valid, or empty
  std::string key_name;                       // of the API key that it came with, for logs; empty: none
  absl::Time deadline = absl::InfiniteFuture();
};

struct DetokenizeRequest {
  std::vector<int32_t> ids;
  bool special = true;  // control tokens are written out
};

struct TokenizeTextRequest {
  std::string text;
  bool parse_special = true;
};

// What ValidateSampling and ValidateSamplingIds say, as InvalidField.
absl::Status SamplingField(const absl::Status& status);

// The checks that are the same for every front end: ranges, and the number and size of strings.
absl::Status ValidateInferRequest(const InferRequest& request);

// The fields that requests for text share, whatever their endpoint: sampling, lengths, seeds and stops.
const JsonFields<InferRequest>& GenerationFields();
// logprobs, as a boolean, and top_logprobs.
const JsonFields<InferRequest>& LogprobFields();
// Tools, response formats and reasoning: what needs a conversation.
const JsonFields<InferRequest>& ConversationFields();
// Names of all fields of POST /infer and of POST /tokenize.
std::vector<std::string> InferFieldNames();
std::vector<std::string> TokenizeFieldNames();
std::vector<std::string> DetokenizeFieldNames();

// POST /infer. InvalidArgument names the field and the value, and any field that is not known. A null is an
// absent field.
absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body);
// POST /tokenize.
absl::StatusOr<TokenizeTextRequest> ParseTokenizeRequest(std::string_view body);

// POST /detokenize.
absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body);

}  // namespace moepool
