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

AnswerParserOptions Tools(ToolFormat format) {
  AnswerParserOptions options;
  options.tools.emplace();
  options.tools->format = format;
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
      ParseAnyhow(options, "<tool_call>no</tool_call></think>\n<tool_call>{\"name\":\"add\"}</tool_call>"),
      (Parsed{"<tool_call>no</tool_call>", "", {{"add", "{}"}}}));
}

TEST(ToolCallTest, Hermes) {
  const AnswerParserOptions options = Tools(ToolFormat::kHermes);
  EXPECT_EQ(ParseAnyhow(options,
                        "I'll add.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": "
                        "\"}{\\\"\"}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_time\", "
                        "\"arguments\": {}}\n</tool_call>\n"),
            (Parsed{"", "I'll add.", {{"add", R"({"a":1,"b":"}{\""})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"arguments\": {\"a\": []}, \"name\": \"add\"}"),
            (Parsed{"", "", {{"add", R"({"a":[]})"}}}));
  EXPECT_EQ(ParseAnyhow(options, "<tool_call>{\"name\": \"add\"}</tool_call> Done."),
            (Parsed{"", " Done.", {{"add", "{}"}}}));
}

TEST(ToolCallTest, WhatIsNoCallIsText) {
  for (const std::string& text : std::vector<std::string>{
           "<tool_call>add(1, 2)</tool_call>",
           "<tool_call>{\"name\": \"subtract\", \"arguments\": {}}</tool_call>",
           "<tool_call>{\"name\": \"add\", \"arguments\": [1]}</tool_call>",
           "<tool_call>{\"name\": \"add\", \"argu",
           "<tool_call>{\"name\": \"add\", \"arguments\": {\"a\": tru}}</tool_call>", "<tool_call>\n",
           "a <tool_cal", "<tool_call>{\"name\": 1}</tool_call>", "<tool_call>[1]</tool_call>",
           "  text with  space \n", "<function=add>x</function>",
           "<tool_call>{\"name\": \"add\"} {\"name\": }"}) {
    const Parsed parsed = ParseAnyhow(Tools(ToolFormat::kHermes), text);
    if (text.find("\"add\"} {") != std::string::npos) {
      EXPECT_EQ(parsed, (Parsed{"", " {\"name\": }", {{"add", "{}"}}}));
    } else {
      EXPECT_EQ(parsed, (Parsed{"", text, {}}));
    }
  }
}

TEST(ToolCallTest, Llama) {
  const AnswerParserOptions options = Tools(ToolFormat::kLlama);
  EXPECT_EQ(ParseAnyhow(options, "\n{\"name\": \"add\", \"parameters\": {\"a\": \"1\"}}"),
            (Parsed{"", "", {{"add", R"({"a":"1"})"}}}));
  EXPECT_EQ(ParseAnyhow(options,
                        "<|python_tag|>{\"name\": \"add\", \"parameters\": {}}; {\"name\": \"get_time\", "
                        "\"parameters\": {}}"),
            (Parsed{"", "", {{"add", "{}"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(options, "{\"answer\": 5}"), (Parsed{"", "{\"answer\": 5}", {}}));
  EXPECT_EQ(ParseAnyhow(options, "Say {\"name\": \"add\", \"parameters\": {}}"),
            (Parsed{"", "Say {\"name\": \"add\", \"parameters\": {}}", {}}));
}

TEST(ToolCallTest, Mistral) {
  const AnswerParserOptions options = Tools(ToolFormat::kMistral);
  EXPECT_EQ(ParseAnyhow(options,
                        "[TOOL_CALLS] [{\"name\": \"add\", \"arguments\": {\"a\": 1}}, {\"name\": "
                        "\"get_time\", \"arguments\": {}}]"),
            (Parsed{"", "", {{"add", R"({"a":1})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(options, "[TOOL_CALLS]add[ARGS]{\"a\": 1}[TOOL_CALLS]get_time{}"),
            (Parsed{"", "", {{"add", R"({"a":1})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(ParseAnyhow(options, "[TOOL_CALLS][]"), (Parsed{"", "[TOOL_CALLS][]", {}}));
  AnswerParser parser(options);
  const AnswerParser::Output out = parser.Push("[TOOL_CALLS]add[ARGS]{}");
  ASSERT_EQ(out.tool_calls.size(), 1u);
  EXPECT_EQ(out.tool_calls[0].id.size(), 9u);
}

TEST(ToolCallTest, DeepSeek) {
  const AnswerParserOptions options = Tools(ToolFormat::kDeepSeek);
  EXPECT_EQ(
      ParseAnyhow(options,
                  "Well.\n\n<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n"
                  "{\"a\": 1}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>"
                  "get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      (Parsed{"", "Well.", {{"add", R"({"a":1})"}, {"get_time", "{}"}}}));
  EXPECT_EQ(
      ParseAnyhow(options,
                  "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>add<｜tool▁sep｜>{\"a\": 1}<｜tool▁call▁end｜>"
                  "<｜tool▁call▁begin｜>get_time<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
      (Parsed{"", "", {{"add", R"({"a":1})"}, {"get_time", "{}"}}}));
}

TEST(ToolCallTest, OneCallAtMost) {
  AnswerParserOptions options = Tools(ToolFormat::kHermes);
  options.tools->parallel = false;
  EXPECT_EQ(
      ParseAnyhow(options,
                  "<tool_call>{\"name\": \"add\"}</tool_call><tool_call>{\"name\": \"add\"}</tool_call>"),
      (Parsed{"", "", {{"add", "{}"}}}));
}

// Where a grammar holds the model to a call, its arguments come as they are written.
TEST(ToolCallTest, TrustedCallsAreStreamed) {
  AnswerParserOptions options = Tools(ToolFormat::kHermes);
  options.tools->trusted = true;
  options.tools->in_call = true;
  const std::string text =
      "\n{\"name\": \"add\", \"arguments\": {\"a\": \"x}\\\"\", \"b\": "
      "[1]}}\n</tool_call>\n<tool_call>\n{\"name\": "
      "\"get_time\", \"arguments\": {}}\n</tool_call>";
  EXPECT_EQ(ParseAnyhow(options, text),
            (Parsed{"", "", {{"add", R"({"a": "x}\"", "b": [1]})"}, {"get_time", "{}"}}}));
  AnswerParser parser(options);
  parser.Push("\n{\"name\": \"add\", \"arguments\": {\"a\"");
  const AnswerParser::Output out = parser.Push(": \"half");
  ASSERT_EQ(out.tool_calls.size(), 1u);
  EXPECT_EQ(out.tool_calls[0].arguments, ": \"half");
  EXPECT_EQ(out.tool_calls[0].name, "");
  EXPECT_TRUE(parser.Finish().text.empty());  // cut off by max_tokens: what has come is the call
}

TEST(ToolCallTest, TrustedFormats) {
  const struct {
    ToolFormat format;
    const char* text;
  } cases[] = {{ToolFormat::kLlama, R"({"name": "add", "parameters": {"a": 1}})"},
               {ToolFormat::kMistral, R"([{"name": "add", "arguments": {"a": 1}}])"},
               {ToolFormat::kMistral, R"(add[ARGS]{"a": 1})"},
               {ToolFormat::kDeepSeek,
                "<｜tool▁call▁begin｜>function<｜tool▁sep｜>add\n```json\n{\"a\": 1}\n```"
                "<｜tool▁call▁end｜>"}};
  for (const auto& c : cases) {
    AnswerParserOptions options = Tools(c.format);
    options.tools->trusted = true;
    options.tools->in_call = true;
    EXPECT_EQ(ParseAnyhow(options, c.text), (Parsed{"", "", {{"add", R"({"a": 1})"}}})) << c.text;
  }
}

}  // namespace
}  // namespace moepool
