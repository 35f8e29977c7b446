// Every field of moepool.v1.Inference on its way to a request, and every part of an event on its way back.
#include "gateway/generate_convert.h"

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

v1::GenerateRequest Proto(const std::string& text) {
  v1::GenerateRequest proto;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &proto)) << text;
  return proto;
}

InferRequest Read(const std::string& text) {
  absl::StatusOr<InferRequest> request = FromProto(Proto(text));
  EXPECT_TRUE(request.ok()) << text << request.status();
  return request.ok() ? *std::move(request) : InferRequest();
}

std::string Refusal(const std::string& text) {
  const absl::StatusOr<InferRequest> request = FromProto(Proto(text));
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << text;
  return std::string(request.status().message());
}

TEST(FromProtoTest, DefaultsAreThoseOfTheComments) {
  const InferRequest request = Read("prompt: 'hi'");
  EXPECT_EQ(std::get<std::string>(request.input), "hi");
  EXPECT_EQ(request.max_tokens, 256);
  EXPECT_EQ(request.n, 1);
  EXPECT_FALSE(request.raw || request.ignore_eos || request.echo || request.prompt_logprobs);
  EXPECT_FALSE(request.seed.has_value());
  EXPECT_TRUE(request.tools.is_null());
  EXPECT_EQ(request.tool_choice.kind, ToolChoiceKind::kAuto);
  EXPECT_TRUE(request.parallel_tool_calls);
  EXPECT_EQ(request.response_format.kind, ResponseFormatKind::kText);
  EXPECT_FALSE(request.max_reasoning_tokens.has_value());
  EXPECT_TRUE(request.split_reasoning);
  EXPECT_TRUE(request.template_variables.is_null());
  EXPECT_EQ(request.sampling.temperature, 0);
  EXPECT_EQ(request.sampling.top_p, 1);
  EXPECT_EQ(request.sampling.repetition_penalty, 1);
  EXPECT_FALSE(request.sampling.repeat_last_n.has_value());
  EXPECT_EQ(request.sampling.dry.base, 1.75);
  EXPECT_EQ(request.sampling.dry.allowed_length, 2);
  EXPECT_EQ(request.sampling.dry.penalty_last_n, 64);
  EXPECT_THAT(request.dry_sequence_breakers, testing::ElementsAre("\n", ":", "\"", "*"));
}

TEST(FromProtoTest, Sampling) {
  const InferRequest request = Read(R"(
      prompt: 'hi' max_tokens: 5 n: 3 raw: true stop: 'a' stop: 'b' echo: true prompt_logprobs: true
      sampling { temperature: 0.5 top_p: 0.25 top_k: 7 min_p: 0.125 seed: 9 presence_penalty: 1 frequency_penalty: -1
                 repetition_penalty: 1.5 logit_bias { key: 8 value: 2 } logit_bias { key: 3 value: -2 } logprobs: true
                 top_logprobs: 4 min_tokens: 2 ignore_eos: true repeat_last_n: -1 dry_multiplier: 0.5 dry_base: 2
                 dry_allowed_length: 0 dry_penalty_last_n: 11 dry_sequence_breakers { strings: 'x' } })");
  EXPECT_EQ(request.max_tokens, 5);
  EXPECT_EQ(request.n, 3);
  EXPECT_TRUE(request.raw && request.echo && request.prompt_logprobs && request.ignore_eos);
  EXPECT_THAT(request.stop, testing::ElementsAre("a", "b"));
  EXPECT_EQ(request.seed, 9u);
  const SamplingParams& sampling = request.sampling;
  EXPECT_EQ(sampling.temperature, 0.5);
  EXPECT_EQ(sampling.top_p, 0.25);
  EXPECT_EQ(sampling.top_k, 7);
  EXPECT_EQ(sampling.min_p, 0.125);
  EXPECT_EQ(sampling.presence_penalty, 1);
  EXPECT_EQ(sampling.frequency_penalty, -1);
  EXPECT_EQ(sampling.repetition_penalty, 1.5);
  ASSERT_EQ(sampling.logit_bias.size(), 2u);
  EXPECT_EQ(sampling.logit_bias[0].id, 3);
  EXPECT_EQ(sampling.logit_bias[1].bias, 2);
  EXPECT_TRUE(sampling.logprobs);
  EXPECT_EQ(sampling.top_logprobs, 4);
  EXPECT_EQ(sampling.min_tokens, 2);
  EXPECT_EQ(sampling.repeat_last_n, -1);
  EXPECT_EQ(sampling.dry.multiplier, 0.5);
  EXPECT_EQ(sampling.dry.base, 2);
  EXPECT_EQ(sampling.dry.allowed_length, 0);
  EXPECT_EQ(sampling.dry.penalty_last_n, 11);
  EXPECT_THAT(request.dry_sequence_breakers, testing::ElementsAre("x"));
}

TEST(FromProtoTest, Messages) {
  const InferRequest request = Read(R"(
      messages { messages { role: 'user' content: 'hi' name: 'bob' }
                 messages { role: 'assistant' reasoning: 'hm'
                            tool_calls { id: 'c1' name: 'add' arguments: '{"a": 1}' }
                            tool_calls { id: 'c2' name: 'now' arguments: '{}' } }
                 messages { role: 'tool' content: '2' tool_call_id: 'c1' } })");
  const auto& messages = std::get<std::vector<ChatMessage>>(request.input);
  ASSERT_EQ(messages.size(), 3u);
  EXPECT_EQ(messages[0].role, "user");
  EXPECT_EQ(messages[0].content, "hi");
  EXPECT_EQ(messages[0].fields["name"], "bob");
  EXPECT_TRUE(messages[1].fields["content"].is_null());
  EXPECT_EQ(messages[1].fields["reasoning_content"], "hm");
  ASSERT_EQ(messages[1].fields["tool_calls"].size(), 2u);
  EXPECT_EQ(messages[1].fields["tool_calls"][0]["function"]["name"], "add");
  EXPECT_EQ(messages[1].fields["tool_calls"][0]["id"], "c1");
  EXPECT_EQ(messages[2].role, "tool");
  EXPECT_EQ(messages[2].fields["tool_call_id"], "c1");
}

TEST(FromProtoTest, Tools) {
  const InferRequest request = Read(R"(
      prompt: 'hi' parallel_tool_calls: false tool_choice { function: 'add' }
      tools { name: 'add' description: 'adds' parameters: '{"type": "object", "properties": {"b": {}, "a": {}}}' }
      tools { name: 'now' })");
  ASSERT_EQ(request.tools.size(), 2u);
  EXPECT_EQ(request.tools[0]["type"], "function");
  EXPECT_EQ(request.tools[0]["function"]["description"], "adds");
  EXPECT_EQ(request.tools[0]["function"]["parameters"]["properties"].begin().key(),
            "b");  // in the client's order
  EXPECT_EQ(request.tools[1]["function"]["name"], "now");
  EXPECT_EQ(request.tool_choice.kind, ToolChoiceKind::kFunction);
  EXPECT_EQ(request.tool_choice.name, "add");
  EXPECT_FALSE(request.parallel_tool_calls);
  const auto kind = [](const std::string& mode) {
    return Read("prompt: 'hi' tools { name: 'now' } tool_choice { mode: " + mode + " }").tool_choice.kind;
  };
  EXPECT_EQ(kind("MODE_UNSPECIFIED"), ToolChoiceKind::kAuto);
  EXPECT_EQ(kind("MODE_AUTO"), ToolChoiceKind::kAuto);
  EXPECT_EQ(kind("MODE_NONE"), ToolChoiceKind::kNone);
  EXPECT_EQ(kind("MODE_REQUIRED"), ToolChoiceKind::kRequired);
}

TEST(FromProtoTest, FormatsAndReasoning) {
  const InferRequest object = Read("prompt: 'hi' response_format { json_object {} } max_reasoning_tokens: 0");
  EXPECT_EQ(object.response_format.kind, ResponseFormatKind::kJsonObject);
  EXPECT_EQ(object.max_reasoning_tokens, 0);
  const InferRequest schema = Read(R"(prompt: 'hi' response_format { json_schema: '{"type" : "string"}' })");
  EXPECT_EQ(schema.response_format.kind, ResponseFormatKind::kJsonSchema);
  EXPECT_EQ(schema.response_format.text, R"({"type":"string"})");
  const InferRequest grammar = Read(R"(prompt: 'hi' response_format { grammar: 'root ::= "a"' }
                                       split_reasoning: false template_variables: '{"enable_thinking": false}')");
  EXPECT_EQ(grammar.response_format.kind, ResponseFormatKind::kGrammar);
  EXPECT_EQ(grammar.response_format.text, "root ::= \"a\"");
  EXPECT_FALSE(grammar.split_reasoning);
  EXPECT_EQ(grammar.template_variables["enable_thinking"], false);
}

TEST(FromProtoTest, WhatIsWrongIsNamed) {
  EXPECT_THAT(Refusal(""), HasSubstr("input is missing"));
  EXPECT_THAT(Refusal("messages { messages { role: 'assistant' tool_calls { arguments: '{}' } } }"),
              HasSubstr("messages[0].tool_calls[0]"));
  EXPECT_THAT(Refusal("prompt: 'hi' tools { name: '' }"), HasSubstr("tools[0].function.name"));
  EXPECT_THAT(Refusal("prompt: 'hi' tools { name: 'a' parameters: '{' }"),
              HasSubstr("tools[0].parameters is not JSON"));
  EXPECT_THAT(Refusal("prompt: 'hi' tools { name: 'a' } tools { name: 'a' }"), HasSubstr("given twice"));
  EXPECT_THAT(Refusal("prompt: 'hi' tool_choice { mode: 9 }"), HasSubstr("tool_choice.mode is 9"));
  EXPECT_THAT(Refusal("prompt: 'hi' response_format { json_schema: 'no' }"),
              HasSubstr("response_format.json_schema is not JSON"));
  EXPECT_THAT(Refusal("prompt: 'hi' template_variables: '[]'"), HasSubstr("template_variables is"));
  EXPECT_THAT(Refusal("prompt: 'hi' template_variables: '{\"tools\": 1}'"),
              HasSubstr("template_variables.tools"));
}

TEST(AddToProtoTest, EventsGatherInAMessage) {
  InferEvent first;
  first.index = 2;
  first.prompt_logprobs = {{{7, "p", -1.0f}, {}}};
  first.reasoning = "be";
  InferEvent second;
  second.index = 2;
  second.reasoning = "cause";
  second.text = "yes";
  second.ids = {4, 5};
  second.logprobs = {{{4, "y", -0.5f}, {{4, "y", -0.5f}, {6, "n", -2.0f}}}, {{5, "es", -0.25f}, {}}};
  second.tool_calls = {{0, "c1", "add", "{"}, {0, "", "", "}"}, {1, "c2", "now", ""}};
  InferEvent third;
  third.index = 2;
  third.tool_calls = {{1, "", "", "{}"}};
  third.ended = third.finished = true;
  third.reason = FinishReason::kToolCalls;
  third.seed = 11;
  third.usage = {.prompt_tokens = 1, .cached_tokens = 2, .completion_tokens = 3, .reasoning_tokens = 4};
  third.timings = {.queue_ms = 5, .ttft_ms = 6, .decode_ms = 7};
  third.model = "m";
  v1::GenerateResponse message;
  for (const InferEvent& event : {first, second, third}) AddToProto(event, &message);
  v1::GenerateResponse expected;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(R"(
      index: 2 text: 'yes' reasoning: 'because' token_ids: [4, 5] finish_reason: FINISH_REASON_TOOL_CALLS seed: 11
      prompt_logprobs { token { id: 7 token: 'p' logprob: -1 } }
      logprobs { token { id: 4 token: 'y' logprob: -0.5 } top { id: 4 token: 'y' logprob: -0.5 }
                 top { id: 6 token: 'n' logprob: -2 } }
      logprobs { token { id: 5 token: 'es' logprob: -0.25 } }
      tool_calls { index: 0 id: 'c1' name: 'add' arguments: '{}' }
      tool_calls { index: 1 id: 'c2' name: 'now' arguments: '{}' }
      usage { prompt_tokens: 1 cached_tokens: 2 completion_tokens: 3 reasoning_tokens: 4 }
      timings { queue_ms: 5 ttft_ms: 6 decode_ms: 7 } model: 'm')",
                                                            &expected));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(message, expected)) << message.DebugString();
}

TEST(AddToProtoTest, FinishReasons) {
  for (const auto& [reason, expected] : {std::pair(FinishReason::kStop, v1::FINISH_REASON_STOP),
                                         std::pair(FinishReason::kLength, v1::FINISH_REASON_LENGTH),
                                         std::pair(FinishReason::kToolCalls, v1::FINISH_REASON_TOOL_CALLS)}) {
    InferEvent event;
    event.ended = true;
    event.reason = reason;
    v1::GenerateResponse message;
    AddToProto(event, &message);
    EXPECT_EQ(message.finish_reason(), expected);
    EXPECT_FALSE(message.has_usage());
  }
}

}  // namespace
}  // namespace moepool
