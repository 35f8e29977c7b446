// One request for text, whichever front end it came through, and its reading from JSON.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/trunk/trunk.h"
#include "nlohmann/json.hpp"

namespace moepool {

inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopBytes = 1024;  // of one stop string
inline constexpr int32_t kMaxAnswers = 16;
inline constexpr size_t kMaxDryBreakers = 16;
inline constexpr size_t kMaxDryBreakerBytes = 40;  // of one breaker

struct ChatMessage {
  std::string role;
  std::string content;
};

struct InferRequest {
  std::variant<std::string, std::vector<ChatMessage>, std::vector<int32_t>>
      input;         // prompt, messages or token ids
  bool raw = false;  // a prompt is fed without the chat template
  int32_t max_tokens = 256;
  SamplingParams sampling;       // without seed and breakers
  std::optional<uint64_t> seed;  // of the first answer, each further one's is one more; none: drawn at random
  int32_t n = 1;                 // answers
  bool ignore_eos = false;       // ids that end generation do not
  std::vector<std::string> stop;
  std::vector<std::string> dry_sequence_breakers = {"\n", ":", "\"", "*"};
  bool stream = false;
  absl::Time deadline = absl::InfiniteFuture();
};

struct TokenizeTextRequest {
  std::string text;
  bool parse_special = true;
};

// InvalidArgument about one field of a request. The field's name is kept for OpenAI's "param".
absl::Status InvalidField(const std::string& field, const std::string& message);
// The field's name, or empty.
std::string FieldOf(const absl::Status& status);

// What ValidateSampling and ValidateSamplingIds say, as InvalidField.
absl::Status SamplingField(const absl::Status& status);

// The checks that are the same for every front end: ranges, and the number and size of strings.
absl::Status ValidateInferRequest(const InferRequest& request);

// Bounded parsing of a body: at most 32 levels and 100,000 values. InvalidArgument says where it is
// malformed, and quotes nothing of the body, or names a key that an object has twice.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view body);

// POST /infer. InvalidArgument names the field and the value, and any field that is not known. A null is an
// absent field.
absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body);
// POST /tokenize.
absl::StatusOr<TokenizeTextRequest> ParseTokenizeRequest(std::string_view body);

}  // namespace moepool
