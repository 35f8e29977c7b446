#include "common/constrain/tool_call_grammar.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "common/constrain/matcher.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;

const std::vector<ToolCallChoice>& Tools() {
  static const auto* const tools = new std::vector<ToolCallChoice>{
      {"get_time", nullptr},
      {"add",
       Json::parse(
           R"({"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"$defs":{"n":{"type":"integer"}}})")},
      {"add_all",
       Json::parse(
           R"({"type":"object","properties":{"a":{"$ref":"#/$defs/n"}},"required":["a"],"$defs":{"n":{"type":"null"}}})")}};
  return *tools;
}

ToolCallForm Form() {
  ToolCallForm form;
  form.marker = "<t>";
  form.before_first = "\n";
  form.before_name = "{\"name\": \"";
  form.before_arguments = "\", \"arguments\": ";
  form.after_arguments = "}";
  form.between = "\n</t>\n<t>\n";
  form.after_last = "\n</t>";
  form.tokens = {"<t>", "</t>"};
  return form;
}

bool Reads(const ToolCallForm& form, const ToolCallText& wanted, std::string_view text) {
  static const auto* const bytes = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    return new std::shared_ptr<const Vocabulary>(Vocabulary::Make(std::move(tokens)).value());
  }();
  Matcher matcher(CompiledGrammar::Make(ToolCallGrammar(form, Tools(), wanted).value(), *bytes).value());
  return matcher.Accept(text) && matcher.CanEnd();
}

const char kOne[] = "{\"name\": \"add\", \"arguments\": {\"a\": 1}}";

TEST(ToolCallGrammarTest, IsOneCallOrMany) {
  const ToolCallText one;
  EXPECT_TRUE(Reads(Form(), one, std::string("\n") + kOne + "\n</t>"));
  EXPECT_TRUE(Reads(Form(), one, std::string(kOne) + "</t>"));
  EXPECT_TRUE(Reads(Form(), one, "{\"name\": \"get_time\", \"arguments\":{}}</t>"));
  EXPECT_TRUE(Reads(Form(), one, "{\"name\": \"add_all\", \"arguments\": {\"a\":null}}</t>"));
  EXPECT_FALSE(Reads(Form(), one, "{\"name\": \"add_all\", \"arguments\": {\"a\":1}}</t>"));
  EXPECT_FALSE(Reads(Form(), one, "{\"name\": \"sub\", \"arguments\": {}}</t>"));
  EXPECT_FALSE(Reads(Form(), one, kOne));
  std::string several = std::string("\n") + kOne;
  for (int i = 1; i < kMaxToolCalls; ++i) several += std::string("\n</t><t>\n") + kOne;
  EXPECT_FALSE(Reads(Form(), one, several + "</t>"));
  ToolCallText many;
  many.many = true;
  EXPECT_TRUE(Reads(Form(), many, several + "</t>"));
  EXPECT_FALSE(Reads(Form(), many, several + "\n</t>\n<t>\n" + kOne + "</t>"));
}

TEST(ToolCallGrammarTest, IsACallOrAValueOfASchema) {
  const Json schema = {{"type", "integer"}};
  ToolCallText wanted;
  wanted.begins_with_marker = true;
  wanted.or_schema = &schema;
  EXPECT_TRUE(Reads(Form(), wanted, std::string("<t>\n") + kOne + "\n</t>"));
  EXPECT_TRUE(Reads(Form(), wanted, "17"));
  EXPECT_FALSE(Reads(Form(), wanted, "x"));
  EXPECT_FALSE(Reads(Form(), wanted, std::string("\n") + kOne + "\n</t>"));
}

// A text that begins like a call is one, and all others are free.
TEST(ToolCallGrammarTest, IsACallOrAnyText) {
  ToolCallForm form;
  form.marker = "<t>";
  form.marker_needed = false;
  form.before_name = "{\"name\": \"";
  form.before_arguments = "\", \"arguments\": ";
  form.after_arguments = "}";
  form.several = false;
  form.tokens = {"<t>"};
  ToolCallText wanted;
  wanted.begins_with_marker = true;
  wanted.or_any_text = true;
  for (const std::string& text :
       {std::string(kOne), std::string("<t>") + kOne, std::string("\n") + kOne, std::string(""),
        std::string(" \n\n  Well. ") + kOne, std::string("{\"name\": \"ad"),
        std::string("{\"name\": \"sub\", \"arguments\": {}}"), std::string("{\"answer\": é}"),
        std::string("\"Yes\"")}) {
    EXPECT_TRUE(Reads(form, wanted, text)) << text;
  }
  EXPECT_FALSE(Reads(form, wanted, "{\"name\": \"add\", \"arguments\": {\"a\": \"x\"}}"));
  EXPECT_FALSE(Reads(form, wanted, "\n\n\n {\"name\": \"add\", \"arguments\": [\"x\"]}"));
  EXPECT_FALSE(Reads(form, wanted, std::string(kOne) + " and"));
}

TEST(ToolCallGrammarTest, Errors) {
  EXPECT_FALSE(ToolCallGrammar(Form(), {}, {}).ok());
  const std::vector<ToolCallChoice> bad = {{"f", {{"not", 1}}}};
  EXPECT_TRUE(absl::StrContains(ToolCallGrammar(Form(), bad, {}).status().message(), "tool f"));
}

TEST(SplitSpellingTest, LeavesOutWhatMayBeMissing) {
  using Pieces = std::vector<std::string>;
  const Pieces tokens = {"<t>", "</t>"};
  EXPECT_EQ(SplitSpelling("\n</t>\n<t>\n{\"a\": \"", tokens), (Pieces{"</t>", "<t>", "{\"a\": \""}));
  EXPECT_EQ(SplitSpelling(" , ", tokens), Pieces{","});
  EXPECT_EQ(SplitSpelling("\n", tokens), Pieces{});
  EXPECT_EQ(SplitSpelling("x<t>", tokens), (Pieces{"x", "<t>"}));
}

}  // namespace
}  // namespace moepool
