#include "gateway/openai/chat_request.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "gateway/openai/openai_fields.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

struct ChatBody {
  InferRequest infer;
  OpenAiFields openai;
  std::optional<std::vector<ChatMessage>> messages;
  std::optional<int32_t> max_completion_tokens;
};

// Templates that know degrees of effort are given it; "none" turns thinking off where the template can.
absl::Status ReadEffort(const std::string& field, const ordered_json& value, ChatBody* out) {
  std::string effort;
  MOEPOOL_RETURN_IF_ERROR(ReadJson(field, value, &effort));
  ordered_json& variables = out->infer.template_variables;
  if (!variables.contains("reasoning_effort")) variables["reasoning_effort"] = effort;
  if (effort == "none" && !variables.contains("enable_thinking")) variables["enable_thinking"] = false;
  return absl::OkStatus();
}

absl::Status RefuseFunctions(const std::string& field, const ordered_json&, ChatBody*) {
  return InvalidField(field, "is no longer part of the API: use tools and tool_choice");
}

JsonFields<ChatBody> MakeFields() {
  JsonFields<ChatBody> fields = {
      {"messages",
       [](const std::string& field, const ordered_json& value, ChatBody* out) {
         return ReadMessages(field, value, UnknownFields::kIgnored, &out->messages.emplace());
       }},
      FieldAt<ChatBody>("max_completion_tokens", [](ChatBody& b) { return &b.max_completion_tokens; }),
      {"reasoning_effort", ReadEffort},
      {"functions", RefuseFunctions},
      {"function_call", RefuseFunctions},
  };
  for (JsonField<ChatBody>& field : FieldsOfPart(OpenAiFieldTable(), &ChatBody::openai)) {
    fields.push_back(std::move(field));
  }
  for (const auto* part : {&OpenAiGenerationFields(), &LogprobFields(), &ConversationFields()}) {
    for (JsonField<ChatBody>& field : FieldsOfPart(*part, &ChatBody::infer))
      fields.push_back(std::move(field));
  }
  return fields;
}

const JsonFields<ChatBody>& Fields() {
  static const auto* const fields = new JsonFields<ChatBody>(MakeFields());
  return *fields;
}

absl::Status CheckRoles(const std::vector<ChatMessage>& messages) {
  static constexpr const char* kRoles[] = {"system", "developer", "user", "assistant", "tool"};
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (std::find(std::begin(kRoles), std::end(kRoles), role) != std::end(kRoles)) continue;
    return InvalidField(absl::StrCat("messages[", i, "].role"),
                        absl::StrCat("is '", role.substr(0, kMaxShownKeyBytes),
                                     "', not one of system, developer, user, assistant, tool"));
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<std::string> ChatFieldNames() { return FieldNames(Fields()); }

absl::StatusOr<ChatRequest> ParseChatRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  ChatBody b;
  b.infer.max_tokens = kLengthOfContext;
  b.infer.sampling.temperature = kOpenAiTemperature;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, Fields(), UnknownFields::kIgnored, &b));
  if (!b.messages.has_value()) return InvalidField("messages", "is missing");
  MOEPOOL_RETURN_IF_ERROR(CheckRoles(*b.messages));
  b.infer.input = *std::move(b.messages);
  if (b.max_completion_tokens.has_value()) {
    if (*b.max_completion_tokens < 1) {
      return InvalidField("max_completion_tokens",
                          absl::StrCat("is ", *b.max_completion_tokens, ", less than 1"));
    }
    b.infer.max_tokens = *b.max_completion_tokens;
  }
  MOEPOOL_RETURN_IF_ERROR(ValidateInferRequest(b.infer));
  return ChatRequest{std::move(b.infer), std::move(b.openai.model), b.openai.include_usage};
}

}  // namespace moepool
