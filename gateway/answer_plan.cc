#include "gateway/answer_plan.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/constrain/grammar.h"
#include "common/constrain/json_schema.h"
#include "gateway/answer/text_match.h"

namespace moepool {
namespace {

enum class Thinking { kNever, kMaybe, kOpen, kClosed };

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

// What the model does after this prompt.
Thinking ThinkingAfter(const ChatSyntax& syntax, std::string_view prompt) {
  if (!syntax.thinks) return Thinking::kNever;
  const std::string_view text = prompt.substr(0, prompt.size() - TrailingSpace(prompt));
  if (EndsWith(text, kThinkStart)) return Thinking::kOpen;
  return EndsWith(text, kThinkEnd) ? Thinking::kClosed : Thinking::kMaybe;
}

bool Forced(const ToolChoice& choice) {
  return choice.kind == ToolChoiceKind::kRequired || choice.kind == ToolChoiceKind::kFunction;
}

// The grammar of the call, or calls, that a forced choice asks for.
absl::StatusOr<std::string> CallGrammar(const ServedModel& model, const InferRequest& request) {
  const bool named = request.tool_choice.kind == ToolChoiceKind::kFunction;
  std::vector<ToolCallChoice> choices;
  for (const nlohmann::ordered_json& tool : request.tools) {
    const nlohmann::ordered_json& function = tool["function"];
    if (named && function["name"] != request.tool_choice.name) continue;
    choices.push_back({function["name"].get<std::string>(), function["parameters"]});
  }
  ToolCallForm form = model.syntax.spelling;
  form.many = !named && request.parallel_tool_calls && !form.between.empty();
  return ToolCallGrammar(form, choices);
}

// A forced call begins in the prompt, by its marker: that may be a control token, which no grammar can ask
// for. What the model would have thought before is left out.
absl::Status PlanTools(const ServedModel& model, const InferRequest& request, Thinking* thinking,
                       std::string* prompt, AnswerPlan* plan) {
  if (request.tools.is_null() || request.tool_choice.kind == ToolChoiceKind::kNone) return absl::OkStatus();
  const bool formatted = request.response_format.kind != ResponseFormatKind::kText;
  if (formatted) return InvalidField("response_format", "goes with tools only where tool_choice is none");
  ToolCallParserOptions& tools = plan->parser.tools.emplace();
  tools.format = model.syntax.format;
  tools.parallel = request.parallel_tool_calls;
  for (const nlohmann::ordered_json& tool : request.tools) {
    tools.names.insert(tool["function"]["name"].get<std::string>());
  }
  plan->parsed = true;
  if (!Forced(request.tool_choice)) return absl::OkStatus();
  const absl::StatusOr<std::string> grammar = CallGrammar(model, request);
  if (!grammar.ok()) {
    return InvalidField("tools", absl::StrCat("cannot be held to: ", grammar.status().message()));
  }
  plan->constraint.grammar = *grammar;
  tools.trusted = true;
  tools.in_call = true;
  if (*thinking == Thinking::kOpen) absl::StrAppend(prompt, std::string(kThinkEnd), "\n\n");
  *thinking = Thinking::kClosed;
  if (model.syntax.format != ToolFormat::kLlama) *prompt += ToolCallMarker(model.syntax.format);
  return absl::OkStatus();
}

absl::StatusOr<std::string> FormatGrammar(const ResponseFormat& format) {
  switch (format.kind) {
    case ResponseFormatKind::kText:
      break;
    case ResponseFormatKind::kJsonObject:
      return JsonObjectGrammar();
    case ResponseFormatKind::kJsonSchema: {
      MOEPOOL_ASSIGN_OR_RETURN(const nlohmann::ordered_json schema, ParseJson(format.text));
      return JsonSchemaToGrammar(schema);
    }
    case ResponseFormatKind::kGrammar:
      MOEPOOL_RETURN_IF_ERROR(ParseGrammar(format.text).status());
      return format.text;
  }
  return std::string();
}

absl::Status PlanFormat(const InferRequest& request, AnswerPlan* plan) {
  if (request.response_format.kind == ResponseFormatKind::kText) return absl::OkStatus();
  const absl::StatusOr<std::string> grammar = FormatGrammar(request.response_format);
  if (!grammar.ok()) {
    const bool given = request.response_format.kind == ResponseFormatKind::kGrammar;
    return InvalidField(given ? "grammar" : "response_format",
                        absl::StrCat("cannot be held to: ", grammar.status().message()));
  }
  plan->constraint.grammar = *grammar;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> Encode(const ServedModel& model, std::string_view text) {
  return model.tokenizer->Encode(text, /*parse_special=*/true);
}

// A conversation, or a prompt that becomes one.
absl::Status PlanChat(const ServedModel& model, const InferRequest& request,
                      const std::vector<ChatMessage>& messages, absl::Time now, AnswerPlan* plan) {
  if (model.chat_template == nullptr) {
    return InvalidField("messages",
                        absl::StrCat("need a chat template, and the model ", model.info.name, " has none"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(std::string prompt, RenderChat(*model.chat_template, model.syntax,
                                                          SpecialTextOf(model), request, messages, now));
  Thinking thinking = ThinkingAfter(model.syntax, prompt);
  MOEPOOL_RETURN_IF_ERROR(PlanTools(model, request, &thinking, &prompt, plan));
  MOEPOOL_RETURN_IF_ERROR(PlanFormat(request, plan));
  if (!plan->constraint.grammar.empty() && thinking == Thinking::kMaybe) {
    // What is constrained begins after the thoughts, so there must be some.
    absl::StrAppend(&prompt, std::string(kThinkStart), "\n");
    thinking = Thinking::kOpen;
  }
  if (!plan->constraint.grammar.empty() && thinking == Thinking::kOpen) {
    plan->constraint.begin_after = std::string(kThinkEnd);
  }
  const bool thinks = thinking == Thinking::kMaybe || thinking == Thinking::kOpen;
  if (thinks && request.split_reasoning) {
    plan->parsed = true;
    plan->parser.split_reasoning = true;
    plan->parser.reasoning_open = thinking == Thinking::kOpen;
  }
  if (thinks && request.max_reasoning_tokens.has_value()) {
    plan->reasoning.max_tokens = *request.max_reasoning_tokens;
    if (thinking == Thinking::kMaybe) {
      MOEPOOL_ASSIGN_OR_RETURN(plan->reasoning.start_ids, Encode(model, kThinkStart));
    }
    MOEPOOL_ASSIGN_OR_RETURN(plan->reasoning.end_ids,
                             Encode(model, absl::StrCat("\n", std::string(kThinkEnd), "\n\n")));
  }
  MOEPOOL_ASSIGN_OR_RETURN(plan->prompt, EncodeText(model, prompt, /*parse_special=*/true));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AnswerPlan> PlanAnswer(const ServedModel& model, const InferRequest& request, absl::Time now) {
  AnswerPlan plan;
  std::string field = "prompt";
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.input)) {
    field = "token_ids";
    for (size_t i = 0; i < ids->size(); ++i) {
      if ((*ids)[i] >= 0 && (*ids)[i] < model.info.vocab_size) continue;
      return InvalidField(absl::StrCat("token_ids[", i, "]"),
                          absl::StrCat("is ", (*ids)[i], ", not in [0, ", model.info.vocab_size, ")"));
    }
    plan.prompt = *ids;
    MOEPOOL_RETURN_IF_ERROR(PlanFormat(request, &plan));
  } else if (const auto* messages = std::get_if<std::vector<ChatMessage>>(&request.input)) {
    field = "messages";
    MOEPOOL_RETURN_IF_ERROR(PlanChat(model, request, *messages, now, &plan));
  } else if (const std::string& prompt = std::get<std::string>(request.input); UsesTemplate(model, request)) {
    MOEPOOL_RETURN_IF_ERROR(
        PlanChat(model, request, {{"user", prompt, nlohmann::ordered_json::object()}}, now, &plan));
  } else {
    if (!request.tools.is_null()) {
      return InvalidField("tools",
                          absl::StrCat("need a chat template, and the model ", model.info.name, " has none"));
    }
    MOEPOOL_ASSIGN_OR_RETURN(plan.prompt, EncodeText(model, prompt, /*parse_special=*/true));
    MOEPOOL_RETURN_IF_ERROR(PlanFormat(request, &plan));
  }
  if (plan.prompt.empty()) return InvalidField(field, "has no tokens");
  const int32_t limit = model.info.context_tokens - 1;  // one place for the first token generated
  if (plan.prompt.size() > static_cast<size_t>(limit)) {
    return InvalidField(field,
                        absl::StrCat("has ", plan.prompt.size(), " tokens, more than the ", limit,
                                     " that the context of ", model.info.context_tokens, " leaves room for"));
  }
  return plan;
}

}  // namespace moepool
