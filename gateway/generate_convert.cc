#include "gateway/generate_convert.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

void ReadSampling(const v1::Sampling& proto, InferRequest* request) {
  SamplingParams& sampling = request->sampling;
  if (proto.has_temperature()) sampling.temperature = proto.temperature();
  if (proto.has_top_p()) sampling.top_p = proto.top_p();
  if (proto.has_top_k()) sampling.top_k = proto.top_k();
  if (proto.has_min_p()) sampling.min_p = proto.min_p();
  if (proto.has_seed()) request->seed = proto.seed();
  if (proto.has_presence_penalty()) sampling.presence_penalty = proto.presence_penalty();
  if (proto.has_frequency_penalty()) sampling.frequency_penalty = proto.frequency_penalty();
  if (proto.has_repetition_penalty()) sampling.repetition_penalty = proto.repetition_penalty();
  for (const auto& [id, bias] : proto.logit_bias()) sampling.logit_bias.push_back({id, bias});
  std::sort(sampling.logit_bias.begin(), sampling.logit_bias.end(),
            [](const LogitBias& a, const LogitBias& b) { return a.id < b.id; });
  sampling.logprobs = proto.logprobs();
  sampling.top_logprobs = proto.top_logprobs();
  sampling.min_tokens = proto.min_tokens();
  request->ignore_eos = proto.ignore_eos();
  if (proto.has_repeat_last_n()) sampling.repeat_last_n = proto.repeat_last_n();
  if (proto.has_dry_multiplier()) sampling.dry.multiplier = proto.dry_multiplier();
  if (proto.has_dry_base()) sampling.dry.base = proto.dry_base();
  if (proto.has_dry_allowed_length()) sampling.dry.allowed_length = proto.dry_allowed_length();
  if (proto.has_dry_penalty_last_n()) sampling.dry.penalty_last_n = proto.dry_penalty_last_n();
  if (proto.has_dry_sequence_breakers()) {
    const auto& strings = proto.dry_sequence_breakers().strings();
    request->dry_sequence_breakers.assign(strings.begin(), strings.end());
  }
}

ordered_json ToJson(const v1::ToolCall& call) {
  return {{"id", call.id()},
          {"type", "function"},
          {"function", {{"name", call.name()}, {"arguments", call.arguments()}}}};
}

// As POST /infer has it, so that both are read by the same code.
ordered_json ToJson(const v1::Message& message) {
  ordered_json json = {{"role", message.role()}, {"content", message.content()}};
  if (message.content().empty() && message.tool_calls_size() > 0) json["content"] = nullptr;
  if (message.has_name()) json["name"] = message.name();
  for (const v1::ToolCall& call : message.tool_calls()) json["tool_calls"].push_back(ToJson(call));
  if (message.has_tool_call_id()) json["tool_call_id"] = message.tool_call_id();
  if (message.has_reasoning()) json["reasoning_content"] = message.reasoning();
  return json;
}

// JSON that a field of text holds.
absl::StatusOr<ordered_json> ParseField(const std::string& field, const std::string& text) {
  absl::StatusOr<ordered_json> json = ParseJson(text);
  if (!json.ok()) return InvalidField(field, absl::StrCat("is not JSON: ", json.status().message()));
  return json;
}

absl::Status ReadToolList(const v1::GenerateRequest& proto, InferRequest* request) {
  if (proto.tools_size() == 0) return absl::OkStatus();
  ordered_json tools = ordered_json::array();
  for (int i = 0; i < proto.tools_size(); ++i) {
    const v1::Tool& tool = proto.tools(i);
    ordered_json function = {{"name", tool.name()}};
    if (tool.has_description()) function["description"] = tool.description();
    if (tool.has_parameters()) {
      MOEPOOL_ASSIGN_OR_RETURN(function["parameters"],
                               ParseField(absl::StrCat("tools[", i, "].parameters"), tool.parameters()));
    }
    tools.push_back({{"type", "function"}, {"function", std::move(function)}});
  }
  return ReadTools("tools", tools, &request->tools);
}

absl::Status ReadToolChoice(const v1::ToolChoice& proto, ToolChoice* choice) {
  if (proto.choice_case() == v1::ToolChoice::kFunction) {
    *choice = {ToolChoiceKind::kFunction, proto.function()};
    return absl::OkStatus();
  }
  switch (proto.mode()) {
    case v1::ToolChoice::MODE_UNSPECIFIED:
    case v1::ToolChoice::MODE_AUTO:
      choice->kind = ToolChoiceKind::kAuto;
      return absl::OkStatus();
    case v1::ToolChoice::MODE_NONE:
      choice->kind = ToolChoiceKind::kNone;
      return absl::OkStatus();
    case v1::ToolChoice::MODE_REQUIRED:
      choice->kind = ToolChoiceKind::kRequired;
      return absl::OkStatus();
    default:
      return InvalidField("tool_choice.mode",
                          absl::StrCat("is ", proto.mode(), ", which is none of its values"));
  }
}

absl::Status ReadResponseFormat(const v1::ResponseFormat& proto, ResponseFormat* format) {
  switch (proto.format_case()) {
    case v1::ResponseFormat::kJsonObject:
      format->kind = ResponseFormatKind::kJsonObject;
      break;
    case v1::ResponseFormat::kJsonSchema: {
      MOEPOOL_ASSIGN_OR_RETURN(const ordered_json schema,
                               ParseField("response_format.json_schema", proto.json_schema()));
      *format = {ResponseFormatKind::kJsonSchema, schema.dump()};
      break;
    }
    case v1::ResponseFormat::kGrammar:
      *format = {ResponseFormatKind::kGrammar, proto.grammar()};
      break;
    case v1::ResponseFormat::FORMAT_NOT_SET:
      break;
  }
  return absl::OkStatus();
}

// Of those that POST /infer has for conversations, under a name of its own.
absl::Status ReadConversationField(const std::string& name, const std::string& shown,
                                   const ordered_json& value, InferRequest* request) {
  for (const JsonField<InferRequest>& field : ConversationFields()) {
    if (field.name == name) return field.read(shown, value, request);
  }
  return absl::InternalError(absl::StrCat("no reader for ", name));
}

absl::Status ReadInput(const v1::GenerateRequest& proto, InferRequest* request) {
  switch (proto.input_case()) {
    case v1::GenerateRequest::kPrompt:
      request->input = proto.prompt();
      return absl::OkStatus();
    case v1::GenerateRequest::kTokenIds:
      request->input = std::vector<int32_t>(proto.token_ids().ids().begin(), proto.token_ids().ids().end());
      return absl::OkStatus();
    case v1::GenerateRequest::kMessages: {
      ordered_json list = ordered_json::array();
      for (const v1::Message& message : proto.messages().messages()) list.push_back(ToJson(message));
      std::vector<ChatMessage> messages;
      MOEPOOL_RETURN_IF_ERROR(ReadMessages("messages", list, UnknownFields::kRefused, &messages));
      request->input = std::move(messages);
      return absl::OkStatus();
    }
    case v1::GenerateRequest::INPUT_NOT_SET:
      break;
  }
  return InvalidField("input", "is missing: one of prompt, token_ids, messages");
}

void ToProto(const LogprobEntry& entry, v1::TokenLogprob* proto) {
  proto->set_id(entry.id);
  proto->set_token(entry.bytes);
  proto->set_logprob(entry.logprob);
}

void ToProto(const TokenLogprobEntries& entries, v1::TokenLogprobs* proto) {
  ToProto(entries.token, proto->mutable_token());
  for (const LogprobEntry& top : entries.top) ToProto(top, proto->add_top());
}

v1::FinishReason ToProto(FinishReason reason) {
  if (reason == FinishReason::kToolCalls) return v1::FINISH_REASON_TOOL_CALLS;
  return reason == FinishReason::kStop ? v1::FINISH_REASON_STOP : v1::FINISH_REASON_LENGTH;
}

// One piece a call, whatever number of events it took.
void Add(const ToolCallDelta& delta, v1::GenerateResponse* message) {
  v1::ToolCallDelta* last =
      message->tool_calls_size() == 0 ? nullptr : message->mutable_tool_calls(message->tool_calls_size() - 1);
  if (last == nullptr || last->index() != delta.index) {
    last = message->add_tool_calls();
    last->set_index(delta.index);
  }
  if (!delta.id.empty()) last->set_id(delta.id);
  if (!delta.name.empty()) last->set_name(delta.name);
  last->mutable_arguments()->append(delta.arguments);
}

}  // namespace

absl::StatusOr<InferRequest> FromProto(const v1::GenerateRequest& proto) {
  InferRequest request;
  MOEPOOL_RETURN_IF_ERROR(ReadInput(proto, &request));
  request.raw = proto.raw();
  if (proto.has_max_tokens()) request.max_tokens = proto.max_tokens();
  ReadSampling(proto.sampling(), &request);
  request.stop.assign(proto.stop().begin(), proto.stop().end());
  if (proto.has_n()) request.n = proto.n();
  MOEPOOL_RETURN_IF_ERROR(ReadToolList(proto, &request));
  MOEPOOL_RETURN_IF_ERROR(ReadToolChoice(proto.tool_choice(), &request.tool_choice));
  if (proto.has_parallel_tool_calls()) request.parallel_tool_calls = proto.parallel_tool_calls();
  MOEPOOL_RETURN_IF_ERROR(ReadResponseFormat(proto.response_format(), &request.response_format));
  if (proto.has_max_reasoning_tokens()) request.max_reasoning_tokens = proto.max_reasoning_tokens();
  if (proto.has_split_reasoning()) request.split_reasoning = proto.split_reasoning();
  if (proto.has_template_variables()) {
    MOEPOOL_ASSIGN_OR_RETURN(const ordered_json variables,
                             ParseField("template_variables", proto.template_variables()));
    MOEPOOL_RETURN_IF_ERROR(
        ReadConversationField("chat_template_kwargs", "template_variables", variables, &request));
  }
  request.echo = proto.echo();
  request.prompt_logprobs = proto.prompt_logprobs();
  request.stream = true;
  return request;
}

void AddToProto(const InferEvent& event, v1::GenerateResponse* message) {
  message->set_index(event.index);
  for (const TokenLogprobEntries& entries : event.prompt_logprobs)
    ToProto(entries, message->add_prompt_logprobs());
  message->mutable_reasoning()->append(event.reasoning);
  message->mutable_text()->append(event.text);
  for (const ToolCallDelta& delta : event.tool_calls) Add(delta, message);
  message->mutable_token_ids()->Add(event.ids.begin(), event.ids.end());
  for (const TokenLogprobEntries& entries : event.logprobs) ToProto(entries, message->add_logprobs());
  if (event.ended) {
    message->set_finish_reason(ToProto(event.reason));
    message->set_seed(event.seed);
  }
  if (!event.finished || !event.status.ok()) return;
  v1::Usage* const usage = message->mutable_usage();
  usage->set_prompt_tokens(event.usage.prompt_tokens);
  usage->set_cached_tokens(event.usage.cached_tokens);
  usage->set_completion_tokens(event.usage.completion_tokens);
  usage->set_reasoning_tokens(event.usage.reasoning_tokens);
  v1::Timings* const timings = message->mutable_timings();
  timings->set_queue_ms(event.timings.queue_ms);
  timings->set_ttft_ms(event.timings.ttft_ms);
  timings->set_decode_ms(event.timings.decode_ms);
  message->set_model(event.model);
}

}  // namespace moepool
