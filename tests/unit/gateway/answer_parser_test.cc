#include "gateway/answer/answer_parser.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

struct Call {
  std::string name;
  std::string arguments;
  bool operator==(const Call&) const = default;
};

void PrintTo(const Call& call, std::ostream* out) { *out << call.name << call.arguments; }

struct Parsed {
  std::string reasoning;
  std::string text;
  std::vector<Call> calls;
  bool operator==(const Parsed&) const = default;
};

void PrintTo(const Parsed& p, std::ostream* out) {
  *out << "[" << p.reasoning << "|" << p.text << "|" << testing::PrintToString(p.calls) << "]";
}

void Add(const AnswerParser::Output& piece, Parsed* parsed) {
  parsed->reasoning += piece.reasoning;
  parsed->text += piece.text;
  for (const ToolCallDelta& delta : piece.tool_calls) {
    if (!delta.name.empty()) {
      EXPECT_EQ(static_cast<size_t>(delta.index), parsed->calls.size());
      EXPECT_NE(delta.id, "");
      parsed->calls.push_back({delta.name, ""});
    }
    ASSERT_EQ(static_cast<size_t>(delta.index), parsed->calls.size() - 1);
    parsed->calls.back().arguments += delta.arguments;
  }
}

Parsed Parse(const AnswerParserOptions& options, const std::vector<std::string>& pieces) {
  AnswerParser parser(options);
  Parsed parsed;
  for (const std::string& piece : pieces) Add(parser.Push(piece), &parsed);
  Add(parser.Finish(), &parsed);
  return parsed;
}

// The whole, and the same in two pieces split at every byte, and in single bytes.
Parsed ParseAnyhow(const AnswerParserOptions& options, const std::string& text) {
  const Parsed whole = Parse(options, {text});
  std::vector<std::string> bytes;
  for (size_t i = 0; i < text.size(); ++i) {
    EXPECT_EQ(Parse(options, {text.substr(0, i), text.substr(i)}), whole)
        << "split at " << i << " of " << text;
    bytes.push_back(text.substr(i, 1));
  }
  EXPECT_EQ(Parse(options, bytes), whole) << text;
  return whole;
}

// `source`: what the template says of the spelling.
AnswerParserOptions Tools(ToolFormat format, std::string_view source = "") {
  AnswerParserOptions options;
  options.tools.emplace();
  options.tools->format = format;
  options.tools->form = SpellingOf(format, source);
  options.tools->names = {"add", "get_time"};
  return options;
}

AnswerParserOptions Thinking(bool open) {
  AnswerParserOptions options;
  options.split_reasoning = true;
  options.reasoning_open = open;
  return options;
}

TEST(ReasoningTest, IsParted) {
  EXPECT_EQ(ParseAnyhow(Thinking(false), "<think>\nso it is\n</think>\n\nYes."),
            (Parsed{"so it is", "Yes.", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(false), "  <think></think>Yes."), (Parsed{"", "Yes.", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(true), "\nso </thin it is</think>Yes. </think>"),
            (Parsed{"so </thin it is", "Yes. </think>", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(true), "<think>so</think>Yes"), (Parsed{"so", "Yes", {}}));
}

TEST(ReasoningTest, NoneAndUnended) {
  EXPECT_EQ(ParseAnyhow(Thinking(false), " Yes. <think>x</think>"),
            (Parsed{"", " Yes. <think>x</think>", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(false), " <thi"), (Parsed{"", " <thi", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(false), "<think>so it"), (Parsed{"so it", "", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(true), "so it </th"), (Parsed{"so it </th", "", {}}));
  EXPECT_EQ(ParseAnyhow(Thinking(true), ""), Parsed());
}

TEST(ReasoningTest, SaysWhileItThinks) {
  AnswerParser parser(Thinking(true));
  EXPECT_TRUE(parser.thinking());
  EXPECT_EQ(parser.Push("a").reasoning, "a");
  EXPECT_TRUE(parser.thinking());
  parser.Push("</think>");
  EXPECT_FALSE(parser.thinking());
}

TEST(ReasoningTest, CallsAfterThoughts) {
  AnswerParserOptions options = Tools(ToolFormat::kHermes);
  options.split_reasoning = true;
  options.reasoning_open = true;
  EXPECT_EQ(
      ParseAnyhow(
          options,
          "<tool_call>no</tool_call></think>\n<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>"),
      (Parsed{"<tool_call>no</tool_call>", "", {{"add", "{}"}}}));
}

TEST(ToolCallTest, Hermes) {
  const AnswerParserOptions options = Tools(ToolFormat::kHermes);
  EXPECT_EQ(ParseAnyhow(options,
                        "I'll add.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": "
                        "\"}{\\\"\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", "
                        "\"arguments\": {}}\n</tool_call>\n"),
            (Parsed{"", "I'll add.", {{"add", R"({"a": 1, "b": "}{\""})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"name\": \"add\", \"arguments\":{\"a\": []}}"),
            (Parsed{"", "", {{"add", R"({"a": []})"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call> Done. "),
            (Parsed{"", " Done. ", {{"add", "{}"}}}));
  // Cut off by max_tokens, what has come is the call.
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": \"x"),
            (Parsed{"", "", {{"add", R"({"a": "x)"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"name\": \"add\", \"arguments\": {}}\n</tool"),
            (Parsed{"", "", {{"add", "{}"}}}));
}

TEST(ToolCallTest, WhatDoesNotBeginAsACallIsText) {
  for (const std::string& text : std::vector<std::string>{
           "<tool_call>add(1, 2)</tool_call>",
           "<tool_call>{\"name\": \"subtract\", \"arguments\": {}}</tool_call>",
           "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>",
           "<tool_call>{\"name\": \"add\", \"argu", "<tool_call>\n", "a <tool_cal",
           "<tool_call>{\"name\": 1}</tool_call>", "  text with  space \n", "<function=add>x</function>"}) {
    EXPECT_EQ(ParseAnyhow(Tools(ToolFormat::kHermes), text), (Parsed{"", text, {}}));
  }
  EXPECT_EQ(ParseAnyhow(Tools(ToolFormat::kHermes),
                        "<tool_call> <tool_call>{\"name\": \"add\", \"arguments\": {}}</tool_call>"),
            (Parsed{"", "<tool_call>", {{"add", "{}"}}}));
}

TEST(ToolCallTest, Llama) {
  const AnswerParserOptions options = Tools(ToolFormat::kLlama);
  EXPECT_EQ(ParseAnyhow(options, "\n{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}"),
            (Parsed{"", "", {{"add", R"({"a": "1"})"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<|python_tag|>{\"name\": \"get_time\", \"parameters\": {}}"),
            (Parsed{"", "", {{"get_time", "{}"}}}));
  for (const std::string& text : std::vector<std::string>{
           "{\"answer\": 5}", "{\"name\": \"Ada\", \"parameters\": {}}",
           "Say {\"name\": \"add\", \"parameters\": {}}", "{\"name\": \"ad", "<|python", "{"}) {
    EXPECT_EQ(ParseAnyhow(options, text), (Parsed{"", text, {}}));
  }
}

TEST(ToolCallTest, Mistral) {
  EXPECT_EQ(ParseAnyhow(Tools(ToolFormat::kMistral),
                        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": "
                        "\"get_time\", \"arguments\": {}}]"),
            (Parsed{"", "", {{"add", R"({"a": 1})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(Tools(ToolFormat::kMistral), "[TOOL_CALLS][]"), (Parsed{"", "[TOOL_CALLS][]", {}}));
  const AnswerParserOptions options = Tools(ToolFormat::kMistral, "[ARGS]");
  EXPECT_EQ(ParseAnyhow(options, "So. [TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]get_time[ARGS]{}"),
            (Parsed{"", "So.", {{"add", R"({"a": 1})"}, {"get_time", "{}"}}}));
  AnswerParser parser(options);
  const AnswerParser::Output out = parser.Push("[TOOL_CALLS]add[ARGS]{");
  ASSERT_EQ(out.tool_calls.size(), 2u);
  EXPECT_EQ(out.tool_calls[0].id.size(), 9u);
}

TEST(ToolCallTest, DeepSeek) {
  EXPECT_EQ(
      ParseAnyhow(Tools(ToolFormat::kDeepSeek, "```json"),
                  "Well.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
                  "{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
                  "get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      (Parsed{"", "Well.", {{"add", R"({"a": 1})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(
      ParseAnyhow(Tools(ToolFormat::kDeepSeek),
                  "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"
                  "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      (Parsed{"", "", {{"add", R"({"a": 1})"}, {"get_time", "{}"}}}));
}

// As OpenAI streams them: name and id first, then the arguments as they are written, and text at once.
TEST(ToolCallTest, CallsAreStreamed) {
  AnswerParser parser(Tools(ToolFormat::kHermes));
  EXPECT_EQ(parser.Push("I add <b").text, "I add <b");
  EXPECT_EQ(parser.Push(" <tool").text, "");
  EXPECT_EQ(parser.Push("box>").text, " <toolbox>");
  EXPECT_TRUE(parser.Push("\n<tool_call>\n{\"name\": \"add\", ").tool_calls.empty());
  AnswerParser::Output out = parser.Push("\"arguments\": {\"a\"");
  EXPECT_EQ(out.text, "");
  ASSERT_EQ(out.tool_calls.size(), 2u);
  EXPECT_EQ(out.tool_calls[0].name, "add");
  EXPECT_EQ(out.tool_calls[0].arguments, "");
  EXPECT_EQ(out.tool_calls[1].id, "");
  EXPECT_EQ(out.tool_calls[1].arguments, "{\"a\"");
  out = parser.Push(": \"half");
  ASSERT_EQ(out.tool_calls.size(), 1u);
  EXPECT_EQ(out.tool_calls[0].arguments, ": \"half");
  EXPECT_TRUE(parser.called_tools());
}

TEST(ToolCallTest, ACallThatBeganInThePrompt) {
  const struct {
    AnswerParserOptions options;
    const char* text;
  } cases[] = {{Tools(ToolFormat::kLlama), R"({"name": "add", "parameters": {"a": 1}})"},
               {Tools(ToolFormat::kHermes), "\n{\"name\": \"add\", \"arguments\": {\"a\": 1}}\n</tool_call>"},
               {Tools(ToolFormat::kMistral), R"([{"name": "add", "arguments": {"a": 1}}])"},
               {Tools(ToolFormat::kMistral, "[ARGS]"), R"(add[ARGS]{"a": 1})"},
               {Tools(ToolFormat::kDeepSeek, "```json"),
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```"
                "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"}};
  for (const auto& c : cases) {
    AnswerParserOptions options = c.options;
    options.tools->in_call = true;
    EXPECT_EQ(ParseAnyhow(options, c.text), (Parsed{"", "", {{"add", R"({"a": 1})"}}})) << c.text;
  }
}

}  // namespace
}  // namespace moepool
