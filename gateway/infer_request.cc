#include "gateway/infer_request.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

// {"id": bias}, with ids written as JSON writes integers.
absl::Status ReadLogitBias(const std::string& field, const ordered_json& value, std::vector<LogitBias>* out) {
  if (!value.is_object())
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not an object"));
  for (const auto& [key, bias] : value.items()) {
    const std::string name = absl::StrCat(field, "[", key.substr(0, kMaxShownKeyBytes), "]");
    LogitBias& entry = out->emplace_back();
    if (!absl::SimpleAtoi(key, &entry.id) || absl::StrCat(entry.id) != key) {
      return InvalidField(name, "is for no token id");
    }
    MOEPOOL_RETURN_IF_ERROR(ReadJson(name, bias, &entry.bias));
  }
  std::sort(out->begin(), out->end(), [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  return absl::OkStatus();
}

absl::Status CheckStrings(const std::string& field, const std::vector<std::string>& strings,
                          size_t max_strings, size_t max_bytes) {
  if (strings.size() > max_strings) {
    return InvalidField(field, absl::StrCat("has ", strings.size(), " strings, more than ", max_strings));
  }
  for (size_t i = 0; i < strings.size(); ++i) {
    const size_t bytes = strings[i].size();
    if (bytes > 0 && bytes <= max_bytes) continue;
    return InvalidField(absl::StrCat(field, "[", i, "]"),
                        absl::StrCat("has ", bytes, " bytes, not 1 to ", max_bytes));
  }
  return absl::OkStatus();
}

absl::Status ReadToolChoice(const std::string& field, const ordered_json& value, ToolChoice* out) {
  if (value == "auto") {
    out->kind = ToolChoiceKind::kAuto;
  } else if (value == "none") {
    out->kind = ToolChoiceKind::kNone;
  } else if (value == "required") {
    out->kind = ToolChoiceKind::kRequired;
  } else if (value.is_object() && value.contains("function") && value["function"].is_object() &&
             value["function"].contains("name")) {
    out->kind = ToolChoiceKind::kFunction;
    return ReadJson(absl::StrCat(field, ".function.name"), value["function"]["name"], &out->name);
  } else {
    return InvalidField(field,
                        R"(is not "auto", "none", "required" or {"type": "function", "function": {"name"}})");
  }
  return absl::OkStatus();
}

absl::Status ReadResponseFormat(const std::string& field, const ordered_json& value, ResponseFormat* out) {
  if (!value.is_object())
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not an object"));
  const auto type = value.find("type");
  if (type == value.end()) return InvalidField(absl::StrCat(field, ".type"), "is missing");
  if (*type == "text") return absl::OkStatus();
  if (*type == "json_object") {
    out->kind = ResponseFormatKind::kJsonObject;
    return absl::OkStatus();
  }
  if (*type != "json_schema") {
    return InvalidField(absl::StrCat(field, ".type"), "is not one of text, json_object, json_schema");
  }
  const std::string at = absl::StrCat(field, ".json_schema");
  const auto named = value.find("json_schema");
  if (named == value.end()) return InvalidField(at, "is missing");
  if (!named->is_object()) return InvalidField(at, absl::StrCat("is ", ShownJson(*named), ", not an object"));
  const auto schema = named->find("schema");
  if (schema == named->end()) return InvalidField(absl::StrCat(at, ".schema"), "is missing");
  if (!schema->is_object() && !schema->is_boolean()) {
    return InvalidField(absl::StrCat(at, ".schema"),
                        absl::StrCat("is ", ShownJson(*schema), ", not an object"));
  }
  out->kind = ResponseFormatKind::kJsonSchema;
  out->text = schema->dump();
  return absl::OkStatus();
}

absl::Status ReadGrammar(const std::string& field, const ordered_json& value, InferRequest* out) {
  if (out->response_format.kind != ResponseFormatKind::kText) {
    return InvalidField(field, "and response_format are both given");
  }
  out->response_format.kind = ResponseFormatKind::kGrammar;
  return ReadJson(field, value, &out->response_format.text);
}

absl::Status ReadTemplateVariables(const std::string& field, const ordered_json& value, InferRequest* out) {
  if (!value.is_object()) {
    return InvalidField(field, absl::StrCat("is ", ShownJson(value), ", not an object"));
  }
  for (const char* own : {"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"}) {
    if (value.contains(own)) return InvalidField(absl::StrCat(field, ".", own), "is set by the server");
  }
  // An insertion looks at all that is there.
  if (value.size() > kMaxTemplateVariables) {
    return InvalidField(field,
                        absl::StrCat("has ", value.size(), " variables, more than ", kMaxTemplateVariables));
  }
  for (const auto& [key, variable] : value.items()) out->template_variables[key] = variable;
  return absl::OkStatus();
}

// The body of /infer.
struct InferBody {
  InferRequest request;
  std::optional<std::string> prompt;
  std::optional<std::vector<ChatMessage>> messages;
  std::optional<std::vector<int32_t>> token_ids;
};

JsonFields<InferBody> MakeInferFields() {
  JsonFields<InferBody> fields = {
      FieldAt<InferBody>("prompt", [](InferBody& b) { return &b.prompt; }),
      {"messages",
       [](const std::string& field, const ordered_json& value, InferBody* out) {
         return ReadMessages(field, value, UnknownFields::kRefused, &out->messages.emplace());
       }},
      {"token_ids", [](const std::string& field, const ordered_json& value,
                       InferBody* out) { return ReadIds(field, value, &out->token_ids.emplace()); }},
  };
  JsonFields<InferRequest> own = {
      FieldAt<InferRequest>("raw", [](InferRequest& r) { return &r.raw; }),
      FieldAt<InferRequest>("split_reasoning", [](InferRequest& r) { return &r.split_reasoning; }),
      FieldAt<InferRequest>("echo", [](InferRequest& r) { return &r.echo; }),
      FieldAt<InferRequest>("prompt_logprobs", [](InferRequest& r) { return &r.prompt_logprobs; }),
  };
  for (const JsonFields<InferRequest>& part :
       {GenerationFields(), LogprobFields(), ConversationFields(), own}) {
    for (JsonField<InferBody>& field : FieldsOfPart(part, &InferBody::request)) {
      fields.push_back(std::move(field));
    }
  }
  return fields;
}

const JsonFields<InferBody>& InferFields() {
  static const auto* const fields = new JsonFields<InferBody>(MakeInferFields());
  return *fields;
}

struct TokenizeBody {
  std::optional<std::string> text;
  bool parse_special = true;
};

const JsonFields<TokenizeBody>& TokenizeFields() {
  static const auto* const fields = new JsonFields<TokenizeBody>{
      FieldAt<TokenizeBody>("text", [](TokenizeBody& b) { return &b.text; }),
      FieldAt<TokenizeBody>("parse_special", [](TokenizeBody& b) { return &b.parse_special; }),
  };
  return *fields;
}

struct DetokenizeBody {
  std::optional<std::vector<int32_t>> ids;
  bool special = true;
};

const JsonFields<DetokenizeBody>& DetokenizeFields() {
  static const auto* const fields = new JsonFields<DetokenizeBody>{
      {"ids", [](const std::string& field, const ordered_json& value,
                 DetokenizeBody* out) { return ReadIds(field, value, &out->ids.emplace()); }},
      FieldAt<DetokenizeBody>("special", [](DetokenizeBody& b) { return &b.special; }),
  };
  return *fields;
}

}  // namespace

absl::Status SamplingField(const absl::Status& status) {
  if (status.ok()) return status;
  const std::string message(status.message());
  const size_t space = message.find(' ');
  return InvalidField(message.substr(0, space), message.substr(space + 1));
}

namespace {

absl::Status ValidateTools(const InferRequest& request) {
  const ToolChoice& choice = request.tool_choice;
  const bool forced = choice.kind == ToolChoiceKind::kRequired || choice.kind == ToolChoiceKind::kFunction;
  if (forced && request.tools.is_null())
    return InvalidField("tool_choice", "asks for a call, and tools are missing");
  if (choice.kind != ToolChoiceKind::kFunction) return absl::OkStatus();
  for (const ordered_json& tool : request.tools) {
    if (tool["function"]["name"] == choice.name) return absl::OkStatus();
  }
  return InvalidField("tool_choice", "names a function that is not among tools");
}

}  // namespace

absl::Status ValidateInferRequest(const InferRequest& request) {
  MOEPOOL_RETURN_IF_ERROR(SamplingField(ValidateSampling(request.sampling)));
  const int32_t least = request.echo || request.prompt_logprobs ? 0 : 1;
  if (request.max_tokens < least) {
    return InvalidField("max_tokens", absl::StrCat("is ", request.max_tokens, ", less than ", least));
  }
  if (request.sampling.min_tokens > request.max_tokens) {
    return InvalidField("min_tokens", absl::StrCat("is ", request.sampling.min_tokens,
                                                   ", more than max_tokens, which is ", request.max_tokens));
  }
  if (request.n < 1 || request.n > kMaxAnswers) {
    return InvalidField("n", absl::StrCat("is ", request.n, ", not in [1, ", kMaxAnswers, "]"));
  }
  MOEPOOL_RETURN_IF_ERROR(CheckStrings("stop", request.stop, kMaxStopStrings, kMaxStopBytes));
  MOEPOOL_RETURN_IF_ERROR(CheckStrings("dry_sequence_breakers", request.dry_sequence_breakers,
                                       kMaxDryBreakers, kMaxDryBreakerBytes));
  if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    if (messages->empty()) return InvalidField("messages", "is empty");
    if (request.raw) return InvalidField("raw", "is true, which goes with prompt, not with messages");
    if (request.echo) return InvalidField("echo", "is true, which goes with prompt, not with messages");
  } else if (!request.tools.is_null() &&
             (request.raw || !std::holds_alternative<std::string>(request.input))) {
    return InvalidField("tools", "need messages, or a prompt that is not raw");
  }
  if (request.max_reasoning_tokens.value_or(0) < 0) {
    return InvalidField("max_reasoning_tokens",
                        absl::StrCat("is ", *request.max_reasoning_tokens, ", less than 0"));
  }
  MOEPOOL_RETURN_IF_ERROR(ValidateTools(request));
  return absl::OkStatus();
}

const JsonFields<InferRequest>& GenerationFields() {
  using R = InferRequest;
  static const auto* const fields = new JsonFields<R>{
      {"stop", [](const std::string& field, const ordered_json& value,
                  R* out) { return ReadStrings(field, value, kMaxStopStrings, &out->stop); }},
      {"dry_sequence_breakers",
       [](const std::string& field, const ordered_json& value, R* out) {
         return ReadStrings(field, value, kMaxDryBreakers, &out->dry_sequence_breakers);
       }},
      {"logit_bias", [](const std::string& field, const ordered_json& value,
                        R* out) { return ReadLogitBias(field, value, &out->sampling.logit_bias); }},
      FieldAt<R>("repeat_last_n", [](R& r) { return &r.sampling.repeat_last_n; }),
      FieldAt<R>("seed", [](R& r) { return &r.seed; }),
      FieldAt<R>("stream", [](R& r) { return &r.stream; }),
      FieldAt<R>("max_tokens", [](R& r) { return &r.max_tokens; }),
      FieldAt<R>("top_k", [](R& r) { return &r.sampling.top_k; }),
      FieldAt<R>("temperature", [](R& r) { return &r.sampling.temperature; }),
      FieldAt<R>("top_p", [](R& r) { return &r.sampling.top_p; }),
      FieldAt<R>("min_p", [](R& r) { return &r.sampling.min_p; }),
      FieldAt<R>("presence_penalty", [](R& r) { return &r.sampling.presence_penalty; }),
      FieldAt<R>("frequency_penalty", [](R& r) { return &r.sampling.frequency_penalty; }),
      FieldAt<R>("repetition_penalty", [](R& r) { return &r.sampling.repetition_penalty; }),
      FieldAt<R>("n", [](R& r) { return &r.n; }),
      FieldAt<R>("ignore_eos", [](R& r) { return &r.ignore_eos; }),
      FieldAt<R>("min_tokens", [](R& r) { return &r.sampling.min_tokens; }),
      FieldAt<R>("dry_multiplier", [](R& r) { return &r.sampling.dry.multiplier; }),
      FieldAt<R>("dry_base", [](R& r) { return &r.sampling.dry.base; }),
      FieldAt<R>("dry_allowed_length", [](R& r) { return &r.sampling.dry.allowed_length; }),
      FieldAt<R>("dry_penalty_last_n", [](R& r) { return &r.sampling.dry.penalty_last_n; }),
      {"response_format",
       [](const std::string& field, const ordered_json& value, R* out) {
         if (out->response_format.kind == ResponseFormatKind::kGrammar) {
           return InvalidField(field, "and grammar are both given");
         }
         return ReadResponseFormat(field, value, &out->response_format);
       }},
      {"grammar", ReadGrammar},
  };
  return *fields;
}

const JsonFields<InferRequest>& LogprobFields() {
  using R = InferRequest;
  static const auto* const fields = new JsonFields<R>{
      FieldAt<R>("logprobs", [](R& r) { return &r.sampling.logprobs; }),
      FieldAt<R>("top_logprobs", [](R& r) { return &r.sampling.top_logprobs; }),
  };
  return *fields;
}

const JsonFields<InferRequest>& ConversationFields() {
  using R = InferRequest;
  static const auto* const fields = new JsonFields<R>{
      {"tools", [](const std::string& field, const ordered_json& value,
                   R* out) { return ReadTools(field, value, &out->tools); }},
      {"tool_choice", [](const std::string& field, const ordered_json& value,
                         R* out) { return ReadToolChoice(field, value, &out->tool_choice); }},
      FieldAt<R>("parallel_tool_calls", [](R& r) { return &r.parallel_tool_calls; }),
      FieldAt<R>("max_reasoning_tokens", [](R& r) { return &r.max_reasoning_tokens; }),
      {"chat_template_kwargs", ReadTemplateVariables},
  };
  return *fields;
}

std::vector<std::string> InferFieldNames() { return FieldNames(InferFields()); }

std::vector<std::string> TokenizeFieldNames() { return FieldNames(TokenizeFields()); }

std::vector<std::string> DetokenizeFieldNames() { return FieldNames(DetokenizeFields()); }

absl::StatusOr<InferRequest> ParseInferRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  InferBody b;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, InferFields(), UnknownFields::kRefused, &b));
  if (b.prompt.has_value() && b.messages.has_value()) {
    return InvalidField("messages", "and prompt are both given");
  }
  if (b.token_ids.has_value() && (b.prompt.has_value() || b.messages.has_value())) {
    return InvalidField("token_ids", "and another input are both given");
  }
  if (b.messages.has_value()) {
    b.request.input = *std::move(b.messages);
  } else if (b.prompt.has_value()) {
    b.request.input = *std::move(b.prompt);
  } else if (b.token_ids.has_value()) {
    b.request.input = *std::move(b.token_ids);
  } else {
    return InvalidField("prompt", "is missing, and so are messages and token_ids");
  }
  MOEPOOL_RETURN_IF_ERROR(ValidateInferRequest(b.request));
  return std::move(b.request);
}

absl::StatusOr<TokenizeTextRequest> ParseTokenizeRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  TokenizeBody b;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, TokenizeFields(), UnknownFields::kRefused, &b));
  if (!b.text.has_value()) return InvalidField("text", "is missing");
  return TokenizeTextRequest{*std::move(b.text), b.parse_special};
}

absl::StatusOr<DetokenizeRequest> ParseDetokenizeRequest(std::string_view body) {
  MOEPOOL_ASSIGN_OR_RETURN(const ordered_json object, ParseJson(body));
  DetokenizeBody b;
  MOEPOOL_RETURN_IF_ERROR(ReadObject("", object, DetokenizeFields(), UnknownFields::kRefused, &b));
  if (!b.ids.has_value()) return InvalidField("ids", "is missing");
  return DetokenizeRequest{*std::move(b.ids), b.special};
}

}  // namespace moepool
