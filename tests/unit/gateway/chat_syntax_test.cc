// What is found out of a template by trying it, and the prompts that follow from it.
#include "gateway/chat_syntax.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;

const SpecialText kSpecial = {"<s>", "</s>"};

std::unique_ptr<ChatTemplate> Parse(std::string_view source) { return ChatTemplate::Parse(source).value(); }

ChatSyntax Detect(std::string_view source) {
  return DetectChatSyntax(*Parse(source), source, kSpecial, absl::UnixEpoch());
}

// The text that `source` makes of a request with these messages and tools.
absl::StatusOr<std::string> Render(std::string_view source, const std::vector<ChatMessage>& messages,
                                   const InferRequest& request = {}) {
  return RenderChat(*Parse(source), Detect(source), kSpecial, request, messages, absl::UnixEpoch());
}

InferRequest WithTool() {
  InferRequest request;
  request.tools = ordered_json::parse(R"([{"type": "function", "function": {"name": "weather"}}])");
  return request;
}

ChatMessage Message(std::string role, std::string content) {
  return {std::move(role), std::move(content), ordered_json::object()};
}

// An answer that calls `weather`, its arguments as clients send them: JSON in a string.
ChatMessage Call() {
  ChatMessage message = Message("assistant", "");
  message.fields["tool_calls"] = ordered_json::parse(
      R"([{"id": "1", "type": "function", "function": {"name": "weather", "arguments": "{\"day\": 2}"}}])");
  return message;
}

constexpr std::string_view kMessages =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<answer>"
    "{% endif %}";

// Tools and calls in Hermes's form, arguments through tojson.
constexpr std::string_view kHermes =
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}<tool_call>"
    "{{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}{% endfor %}";

// The same, arguments joined to text: a template that raises where they are objects.
constexpr std::string_view kTextArguments =
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content or '' }}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function.name + ' ' + c.function.arguments + '</tool_call>' }}{% endfor %}{% "
    "endfor %}";

TEST(DetectChatSyntaxTest, ATemplateThatKnowsNothingOfTools) {
  const ChatSyntax syntax = Detect(kMessages);
  EXPECT_EQ(syntax.format, ToolFormat::kHermes);
  EXPECT_FALSE(syntax.renders_tools);
  EXPECT_TRUE(syntax.object_arguments);
  EXPECT_TRUE(syntax.system_role);
  EXPECT_FALSE(syntax.developer_role);
  EXPECT_FALSE(syntax.thinks);
  EXPECT_EQ(syntax.spelling.marker, "<tool_call>");
}

TEST(DetectChatSyntaxTest, TheFormIsThatOfTheMarkersInATemplateThatShowsTools) {
  const std::string tools = "{% if tools %}{{ tools | tojson }}{% endif %}" + std::string(kMessages);
  const struct {
    std::string_view marker;
    ToolFormat format;
    std::string_view before_arguments;
  } cases[] = {
      {"<tool_call>", ToolFormat::kHermes, "\", \"arguments\": "},
      {"<|python_tag|>", ToolFormat::kLlama, "\", \"parameters\": "},
      {R"({"name": x, "parameters": y})", ToolFormat::kLlama, "\", \"parameters\": "},
      {"[TOOL_CALLS]", ToolFormat::kMistral, "\", \"arguments\": "},
      {"[TOOL_CALLS] [ARGS]", ToolFormat::kMistral, "[ARGS]"},
      {"<｜tool▁calls▁begin｜>", ToolFormat::kDeepSeek, "<｜tool▁sep｜>"},
      {"<｜tool▁calls▁begin｜> ```json", ToolFormat::kDeepSeek, "\n```json\n"},
  };
  for (const auto& c : cases) {
    const ChatSyntax syntax = Detect(std::string(c.marker) + tools);
    EXPECT_EQ(syntax.format, c.format) << c.marker;
    EXPECT_TRUE(syntax.renders_tools) << c.marker;
    EXPECT_EQ(syntax.spelling.before_arguments, c.before_arguments) << c.marker;
  }
}

// A marker alone says little: the tools have to come out, and in a form that is known.
TEST(DetectChatSyntaxTest, OtherwiseTheGatewayWritesHermesItself) {
  const std::string tools = "{% if tools %}{{ tools | tojson }}{% endif %}" + std::string(kMessages);
  for (const std::string& source :
       std::vector<std::string>{"[TOOL_CALLS]" + std::string(kMessages), tools,
                                "<tool_call><function=name>" + tools, "<tool_call><arg_key>" + tools,
                                "{% if tools %}{{ raise_exception('no') }}{% endif %}<tool_call>"}) {
    const ChatSyntax syntax = Detect(source);
    EXPECT_FALSE(syntax.renders_tools) << source;
    EXPECT_EQ(syntax.format, ToolFormat::kHermes) << source;
    EXPECT_EQ(syntax.spelling.before_arguments, "\", \"arguments\": ") << source;
  }
}

TEST(DetectChatSyntaxTest, ArgumentsAreTextWhereObjectsDoNotComeOut) {
  EXPECT_TRUE(Detect(kHermes).object_arguments);
  EXPECT_FALSE(Detect(kTextArguments).object_arguments);
}

TEST(DetectChatSyntaxTest, SystemMessagesAreTakenWhereTheirTextComesOut) {
  const std::string skips = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}";
  const std::string raises =
      "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}";
  EXPECT_TRUE(Detect(kMessages).system_role);
  EXPECT_FALSE(Detect(skips).system_role);
  EXPECT_FALSE(Detect(raises + std::string(kMessages)).system_role);
}

TEST(DetectChatSyntaxTest, DevelopersAndThoughtsAreInTheText) {
  EXPECT_TRUE(Detect("{# developer #}").developer_role);
  EXPECT_TRUE(Detect("<think>").thinks);
  EXPECT_TRUE(Detect("{{ messages[0].content.split('</think>') }}").thinks);
}

TEST(RenderChatTest, ADeveloperIsTheSystemWhereTheTemplateHasNone) {
  const std::vector<ChatMessage> messages = {Message("developer", "be brief"), Message("user", "hi")};
  EXPECT_EQ(*Render(kMessages, messages), "<system>be brief<user>hi<answer>");
  EXPECT_EQ(*Render(std::string(kMessages) + "{# developer #}", messages),
            "<developer>be brief<user>hi<answer>");
}

TEST(RenderChatTest, ArgumentsComeAsTheTemplateWantsThem) {
  const std::vector<ChatMessage> messages = {Message("user", "hi"), Call()};
  EXPECT_EQ(*Render(kHermes, messages), "<user>hi<assistant><tool_call>weather {\"day\": 2}</tool_call>");
  EXPECT_EQ(*Render(kTextArguments, messages), *Render(kHermes, messages));
}

TEST(RenderChatTest, ToolsAreTheTemplatesUnlessTheRequestWantsNone) {
  InferRequest request = WithTool();
  EXPECT_THAT(*Render(kHermes, {Message("user", "hi")}, request), HasSubstr("\"name\": \"weather\""));
  request.tool_choice.kind = ToolChoiceKind::kNone;
  EXPECT_EQ(*Render(kHermes, {Message("user", "hi")}, request), "<user>hi");
}

TEST(RenderChatTest, ToolsGoIntoTheFirstMessageThatTheTemplateTakes) {
  const std::string instructions = ToolInstructions(WithTool().tools);
  ASSERT_THAT(instructions, HasSubstr("weather"));
  EXPECT_EQ(*Render(kMessages, {Message("user", "hi")}, WithTool()),
            "<system>" + instructions + "<user>hi<answer>");
  EXPECT_EQ(*Render(kMessages, {Message("system", "be brief"), Message("user", "hi")}, WithTool()),
            "<system>be brief\n\n" + instructions + "<user>hi<answer>");
  const std::string no_system =
      "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}";
  EXPECT_EQ(*Render(no_system + std::string(kMessages), {Message("user", "hi")}, WithTool()),
            "<user>" + instructions + "\n\nhi<answer>");
}

// Results that follow one another are one message, as many templates want roles to alternate.
TEST(RenderChatTest, CallsAndResultsAreWrittenInTheTextWhereTheTemplateKnowsNone) {
  const std::vector<ChatMessage> messages = {Message("user", "hi"), Call(), Message("tool", "sun"),
                                             Message("tool", "rain"), Message("user", "thanks")};
  EXPECT_EQ(
      *Render(kMessages, messages),
      "<user>hi<assistant><tool_call>\n{\"name\": \"weather\", \"arguments\": {\"day\": 2}}\n</tool_call>"
      "<user><tool_response>\nsun\n</tool_response>\n<tool_response>\nrain\n</tool_response>"
      "<user>thanks<answer>");
}

TEST(RenderChatTest, VariablesOfTheRequestAndOfTheModelReachTheTemplate) {
  InferRequest request;
  request.template_variables = {{"mood", "kind"}};
  EXPECT_EQ(*Render("{{ bos_token }}{{ mood }}{{ tools is none }}{{ eos_token }}", {}, request),
            "<s>kindTrue</s>");
}

TEST(RenderChatTest, WhatTheTemplateRefusesIsAFaultOfTheMessages) {
  const absl::Status status =
      Render("{{ raise_exception('roles must alternate') }}", {Message("user", "hi")}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("messages"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("roles must alternate"));
}

}  // namespace
}  // namespace moepool
