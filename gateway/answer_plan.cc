#include "gateway/answer_plan.h"

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/constrain/grammar.h"
#include "common/constrain/json_schema.h"
#include "common/constrain/tool_call_grammar.h"
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

// The tools that may be called. Of those that need not be called exactly as described, a schema that no
// grammar can hold to leaves the arguments any object.
std::vector<ToolCallChoice> CallChoices(const InferRequest& request, const ToolCallForm& form) {
  const bool named = request.tool_choice.kind == ToolChoiceKind::kFunction;
  std::vector<ToolCallChoice> choices;
  for (const nlohmann::ordered_json& tool : request.tools) {
    const nlohmann::ordered_json& function = tool["function"];
    if (named && function["name"] != request.tool_choice.name) continue;
    ToolCallChoice choice = {function["name"].get<std::string>(), function["parameters"]};
    const bool exact =
        Forced(request.tool_choice) || (function.contains("strict") && function["strict"] == true);
    if (!exact && !ToolCallGrammar(form, std::span(&choice, 1), {}).ok()) choice.parameters = nullptr;
    choices.push_back(std::move(choice));
  }
  return choices;
}

// The schema that an answer without calls is held to; null: none.
absl::StatusOr<nlohmann::ordered_json> FormatSchema(const ResponseFormat& format) {
  if (format.kind == ResponseFormatKind::kJsonObject) return nlohmann::ordered_json{{"type", "object"}};
  if (format.kind == ResponseFormatKind::kGrammar) {
    return InvalidField("grammar",
                        "goes with tools only where tool_choice is none; response_format goes with auto");
  }
  if (format.kind == ResponseFormatKind::kText) return nlohmann::ordered_json();
  MOEPOOL_ASSIGN_OR_RETURN(nlohmann::ordered_json schema, ParseJson(format.text));
  if (const auto grammar = JsonSchemaToGrammar(schema); !grammar.ok()) {
    return InvalidField("response_format", absl::StrCat("cannot be held to: ", grammar.status().message()));
  }
  return schema;
}

// From where on the answer is held to calls. A forced one begins in the prompt, by its marker, and what the
// model would have thought before is left out.
void PlaceCalls(const ToolCallForm& form, const ToolCallText& wanted, bool forced, Thinking* thinking,
                std::string* prompt, AnswerPlan* plan) {
  Constraint& constraint = plan->constraint;
  if (forced) {
    plan->parser.tools->in_call = true;
    if (*thinking == Thinking::kOpen) absl::StrAppend(prompt, std::string(kThinkEnd), "\n\n");
    *thinking = Thinking::kClosed;
    if (form.marker_needed) *prompt += form.marker;
    return;
  }
  constraint.may_end_free = wanted.or_schema == nullptr;
  if (wanted.begins_with_marker) return;
  constraint.begin_after = form.marker;
  if (*thinking == Thinking::kOpen || *thinking == Thinking::kMaybe)
    constraint.thought_end = std::string(kThinkEnd);
  if (*thinking == Thinking::kMaybe) constraint.thought_start = std::string(kThinkStart);
}

absl::Status PlanTools(const ServedModel& model, const InferRequest& request, Thinking* thinking,
                       std::string* prompt, AnswerPlan* plan) {
  if (request.tools.is_null() || request.tool_choice.kind == ToolChoiceKind::kNone) return absl::OkStatus();
  const ToolCallForm& form = model.syntax.spelling;
  const bool forced = Forced(request.tool_choice);
  ToolCallParserOptions& tools = plan->parser.tools.emplace();
  tools.format = model.syntax.format;
  tools.form = form;
  for (const nlohmann::ordered_json& tool : request.tools) {
    tools.names.insert(tool["function"]["name"].get<std::string>());
  }
  plan->parsed = true;
  ToolCallText wanted;
  wanted.many = request.tool_choice.kind != ToolChoiceKind::kFunction && request.parallel_tool_calls;
  nlohmann::ordered_json schema;
  if (!forced) {
    MOEPOOL_ASSIGN_OR_RETURN(schema, FormatSchema(request.response_format));
    if (!schema.is_null()) wanted.or_schema = &schema;
    wanted.or_any_text = schema.is_null() && !form.marker_needed;
    wanted.begins_with_marker = wanted.or_any_text || !schema.is_null();
  }
  const absl::StatusOr<std::string> grammar = ToolCallGrammar(form, CallChoices(request, form), wanted);
  if (!grammar.ok()) {
    return InvalidField("tools", absl::StrCat("cannot be held to: ", grammar.status().message()));
  }
  plan->constraint.grammar = *grammar;
  PlaceCalls(form, wanted, forced, thinking, prompt, plan);
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
  if (plan->constraint.grammar.empty()) MOEPOOL_RETURN_IF_ERROR(PlanFormat(request, plan));
  // Whether the answer is held to a grammar from the end of its thoughts on.
  const bool held = !plan->constraint.grammar.empty() && plan->constraint.begin_after.empty();
  if (held && thinking == Thinking::kMaybe) {
    // What is constrained begins after the thoughts, so there must be some.
    absl::StrAppend(&prompt, std::string(kThinkStart), "\n");
    thinking = Thinking::kOpen;
  }
  if (held && thinking == Thinking::kOpen) {
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
    MOEPOOL_ASSIGN_OR_RETURN(plan->reasoning.close_ids, Encode(model, kThinkEnd));
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
