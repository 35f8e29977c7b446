// Grammars that can be read in many ways: what they take is bounded, and what is too much is said at the same
// place each time.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/constrain/json_schema.h"
#include "common/constrain/matcher.h"
#include "common/constrain/text_constraint.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;

std::shared_ptr<const Vocabulary> Tokens() {
  static const auto* const vocabulary = [] {
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (int n = 2; n <= 8; ++n) tokens.emplace_back(static_cast<size_t>(n), 'a');
    return new std::shared_ptr<const Vocabulary>(Vocabulary::Make(std::move(tokens)).value());
  }();
  return *vocabulary;
}

std::shared_ptr<const CompiledGrammar> Compiled(const std::string& grammar) {
  auto compiled = CompiledGrammar::Make(grammar, Tokens());
  EXPECT_TRUE(compiled.ok()) << compiled.status();
  return *std::move(compiled);
}

std::string Times(int count, std::string_view text) {
  std::string all;
  for (int i = 0; i < count; ++i) all += text;
  return all;
}

// Reads `text` byte by byte with a mask at each: what is left of it where a mask was given up, or refused it.
std::string Rest(Matcher* matcher, std::string_view text, absl::Status* status) {
  while (!text.empty()) {
    const auto mask = matcher->Mask();
    *status = mask.status();
    const auto byte = static_cast<uint8_t>(text[0]);
    if (!mask.ok() || !HasBit(**mask, byte) || !matcher->Accept(byte)) break;
    text.remove_prefix(1);
  }
  return std::string(text);
}

struct Case {
  const char* name;
  std::string grammar;
  std::string text;   // can be read to its end
  const char* other;  // cannot come then
  bool whole;
};

class AmbiguousTest : public testing::TestWithParam<Case> {};

TEST_P(AmbiguousTest, IsReadToItsEnd) {
  Matcher matcher(Compiled(GetParam().grammar));
  absl::Status status;
  EXPECT_EQ(Rest(&matcher, GetParam().text, &status), "") << status;
  const auto mask = matcher.Mask();
  ASSERT_TRUE(mask.ok()) << mask.status();
  EXPECT_FALSE(HasBit(**mask, static_cast<uint8_t>(GetParam().other[0])));
  EXPECT_EQ(matcher.CanEnd(), GetParam().whole);
}

std::string ManyRules(int count) {
  std::string root = "root ::= r0";
  std::string rules;
  for (int i = 0; i < count; ++i) {
    if (i > 0) absl::StrAppend(&root, " | r", i);
    absl::StrAppend(&rules, "\nr", i, " ::= [a-z]* \"", i, "\"");
  }
  return root + rules;
}

std::string ManyLiterals(int count) {
  std::string root = "root ::= (\"w0\"";
  for (int i = 1; i < count; ++i) absl::StrAppend(&root, " | \"w", i * 7919, "\" \"\"");
  return root + ")* \"!\"";
}

const Case kCases[] = {
    {"NestedStars", "root ::= ((((\"a\"*)*)*)*)* \"b\"", Times(400, "a"), "c", false},
    {"NestedPlus", "root ::= (((\"a\"+)+)+ \"a\"?)+", Times(400, "a"), "b", true},
    {"TwoOfItself", "root ::= s\ns ::= \"a\" | \"a\" s s", Times(401, "a"), "b", true},
    {"TwoOrThreeOfItself", "root ::= s\ns ::= \"a\" | \"a\" s s | \"a\" s s s", Times(400, "a"), "b", true},
    {"TwoKindsOfReturn", "root ::= \"a\" root \"x\" | \"a\" root \"y\" | \"b\"",
     Times(300, "a") + "b" + Times(150, "xy"), "x", true},
    {"AMarkSomewhere",
     "root ::= \"a\" root \"x\" | \"a\" root \"y\" | \"b\" m \"x\"\n"
     "m ::= \"c\" m | \"c\" m \"x\" | \"c\" m \"y\" | \"d\"",
     Times(12, "a") + "b" + Times(200, "c") + "d" + Times(213, "x"), "x", true},
    {"Counters", "root ::= (\"a\" | \"aa\"){0,100000} \"b\"", Times(1000, "a") + "b", "a", true},
    {"Words", "root ::= (w \" \"?)* \"!\"\nw ::= [a-z]+ | [a-e]+ [f-z]* | x y\nx ::= [a-z]*\ny ::= [a-z]*",
     Times(100, "abc xyz") + "!", "a", true},
    {"Palindromes", "root ::= \"a\" root \"a\" | \"b\" root \"b\" | \"\"",
     Times(150, "ab") + Times(150, "ba"), "c", true},
    {"ManyRules", ManyRules(3000), "abc2999", "0", true},
    {"ManyLiterals", ManyLiterals(3000), "w0w7919w79190!", "w", true},
};

INSTANTIATE_TEST_SUITE_P(Grammars, AmbiguousTest, testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(AmbiguityLimitTest, IsMetAtTheSamePlaceWhateverWasAskedBefore) {
  const std::string grammar = "root ::= s\ns ::= \"a\" s? s? s? \"b\"?";
  const std::string text = Times(2000, "a");
  const auto compiled = Compiled(grammar);
  absl::Status status;
  Matcher first(compiled);
  const std::string rest = Rest(&first, text, &status);
  EXPECT_FALSE(rest.empty());
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "too ambiguous")) << status;
  EXPECT_TRUE(absl::StrContains(status.message(), absl::StrCat(kMaxStepWork)) ||
              absl::StrContains(status.message(), absl::StrCat(MaxMaskWork(*Tokens()))))
      << status;
  absl::Status again;
  Matcher second(compiled);  // all of it is remembered
  EXPECT_EQ(Rest(&second, text, &again), rest);
  EXPECT_EQ(again, status);
  Matcher third(Compiled(grammar));  // no mask was asked for on the way
  for (size_t i = rest.size(); i < text.size(); ++i) ASSERT_TRUE(third.Accept(std::string_view("a")));
  EXPECT_EQ(Rest(&third, rest, &again), rest);
  EXPECT_EQ(again, status);
}

TEST(AmbiguityLimitTest, IsFoundBeforeTheFirstToken) {
  std::string grammar = "root ::= [a]";
  for (uint32_t i = 0; i < kMaxStepWork; ++i) grammar += "|[a]";
  const auto made = TextConstraint::Make(grammar, "", false, Tokens());
  EXPECT_EQ(made.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(made.status().message(), absl::StrCat(kMaxStepWork))) << made.status();
}

TEST(ManyPropertiesTest, ThousandsAreServed) {
  Json schema = {{"type", "object"}, {"properties", Json::object()}};
  for (int i = 0; i < 5000; ++i) schema["properties"][absl::StrCat("p", i)] = {{"type", "integer"}};
  for (const bool open : {false, true}) {
    schema["additionalProperties"] = open ? Json{{"type", "null"}} : Json(false);
    const auto grammar = JsonSchemaToGrammar(schema);
    ASSERT_TRUE(grammar.ok()) << grammar.status();
    const auto constraint = TextConstraint::Make(*grammar, "", false, Tokens());
    ASSERT_TRUE(constraint.ok()) << constraint.status();
    TextMatcher matcher(*constraint);
    const std::string text = "{\"p3\": 1,\n  \"p77\": 2, \"p4999\":3";
    for (const char c : text) {
      const auto mask = matcher.Mask();
      ASSERT_TRUE(mask.ok()) << mask.status();
      ASSERT_TRUE(HasBit(**mask, static_cast<uint8_t>(c))) << c;
      ASSERT_TRUE(matcher.Accept(static_cast<uint8_t>(c)));
    }
    EXPECT_FALSE(matcher.MayEnd());
    EXPECT_EQ(TextMatcher(matcher).Accept(static_cast<uint8_t>(',')), open);
    EXPECT_TRUE(matcher.Accept(static_cast<uint8_t>('}')));
    EXPECT_TRUE(matcher.IsComplete());
  }
}

}  // namespace
}  // namespace moepool
