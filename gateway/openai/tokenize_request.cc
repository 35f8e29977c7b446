#include "gateway/openai/tokenize_request.h"

#include <utility>

#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

const JsonFields<PromptToTokenize>& TokenizeFields() {
  static const auto* const fields = new JsonFields<PromptToTokenize>{
      FieldAt<PromptToTokenize>("prompt", [](PromptToTokenize& p) { return &p.text; }),
      FieldAt<PromptToTokenize>("add_special_tokens",
                                [](PromptToTokenize& p) { return &p.add_special_tokens; }),
  };
  return *fields;
}

const JsonFields<std::vector<int32_t>>& DetokenizeFields() {
  static const auto* const fields = new JsonFields<std::vector<int32_t>>{{"tokens", ReadIds}};
  return *fields;
}

bool Has(const ordered_json& object, const char* field) {
  return object.is_object() && object.contains(field);
}

}  // namespace

absl::StatusOr<std::optional<PromptToTokenize>> ParsePromptToTokenize(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  if (!Has(object, "prompt")) return std::optional<PromptToTokenize>();
  PromptToTokenize request;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, TokenizeFields(), UnknownFields::kIgnored, &request));
  return std::optional<PromptToTokenize>(std::move(request));
}

absl::StatusOr<std::optional<std::vector<int32_t>>> ParseTokensToDetokenize(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  if (!Has(object, "tokens")) return std::optional<std::vector<int32_t>>();
  std::vector<int32_t> ids;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, DetokenizeFields(), UnknownFields::kIgnored, &ids));
  return std::optional<std::vector<int32_t>>(std::move(ids));
}

std::vector<std::string> PromptToTokenizeFieldNames() { return FieldNames(TokenizeFields()); }

std::vector<std::string> TokensToDetokenizeFieldNames() { return FieldNames(DetokenizeFields()); }

}  // namespace moepool
