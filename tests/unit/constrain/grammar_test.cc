#include "common/constrain/grammar.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "common/constrain/text_constraint.h"
#include "common/text/tokenizer.h"

namespace moepool {
namespace {

std::shared_ptr<const Vocabulary> Bytes() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return Vocabulary::Make(std::move(tokens)).value();
}

// "no": not the beginning of a text. "begin": only that. "text": a whole one.
std::string Read(const std::string& grammar, std::string_view text) {
  auto compiled = CompiledGrammar::Make(grammar, Bytes());
  if (!compiled.ok()) return std::string(compiled.status().message());
  Matcher matcher(*compiled);
  if (!matcher.Accept(text)) return "no";
  return matcher.CanEnd() ? "text" : "begin";
}

TEST(GrammarTest, ReadsItsOwnLanguage) {
  const std::string grammar = R"(# greetings
root ::= greeting ("," name){1,2} "!"?   # the end
name ::= [A-Z] [a-z\u00E9]{,3}
  | "\U0001F600"
greeting ::= ("Hello" | "Hi ") .
)";
  EXPECT_EQ(Read(grammar, "Hello ,Zoé"), "text");
  EXPECT_EQ(Read(grammar, "Hi x,A,😀!"), "text");
  EXPECT_EQ(Read(grammar, "Hi x"), "begin");
  EXPECT_EQ(Read(grammar, "Hi x,Abcde"), "no");
  EXPECT_EQ(Read(grammar, "Hi x,A,B,C"), "no");
}

TEST(GrammarTest, CountsRounds) {
  EXPECT_EQ(Read("root ::= (\"ab\" | [x-z]){2,3}", "abx"), "text");
  EXPECT_EQ(Read("root ::= (\"ab\" | [x-z]){2,3}", "ab"), "begin");
  EXPECT_EQ(Read("root ::= (\"ab\" | [x-z]){2,3}", "zzab"), "text");
  EXPECT_EQ(Read("root ::= (\"ab\" | [x-z]){2,3}", "zzabz"), "no");
  EXPECT_EQ(Read("root ::= (\"a\"?){2,3} \"b\"", "b"), "text");
  EXPECT_EQ(Read("root ::= (\"a\"?){2,3} \"b\"", "aaab"), "text");
  EXPECT_EQ(Read("root ::= (\"a\"?){2,3} \"b\"", "aaaa"), "no");
  EXPECT_EQ(Read("root ::= [a]{100000,100001}", std::string(100'000, 'a')), "text");
}

TEST(GrammarTest, NamesLineAndColumnOfWhatIsWrong) {
  const std::pair<const char*, const char*> kCases[] = {
      {"root ::= (\"a\"", "line 1 column 14: expected )"},
      {"root ::= \"a\"\n\nb ::= [z-a]", "line 3 column 11: the range goes from U+007A down to U+0061"},
      {"root ::= é", "line 1 column 10"},
      {"root ::= nowhere", "line 1 column 10: rule nowhere is not defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2 column 1: rule root is defined twice"},
      {"a ::= \"a\"", "no rule named root"},
      {"root ::= \"\\q\"", "is no escape"},
      {"root ::= \"\\uD800\"", "U+D800 is not a character"},
      {"root ::= \"a\"{3,2}", "from 3 down to 2"},
      {"root ::= \"a\"{99999999999}", "a count is more than"},
      {"root ::= \"a\n\"", "expected \" before the line ends"},
      {"root ::= x\nx ::= \"y\"? x", "line 2 column 1: rule x is left-recursive"},
      {"root ::= a\na ::= b \"x\" | \"y\"\nb ::= \"q\"* a", "left-recursive"},
      {"root ::= \"a\" root", "goes on for ever"},
      {"root ::= []", "goes on for ever"},
  };
  for (const auto& [grammar, message] : kCases) {
    EXPECT_TRUE(absl::StrContains(Read(grammar, "a"), message)) << grammar << "\n" << Read(grammar, "a");
  }
}

TEST(GrammarTest, LimitsHold) {
  EXPECT_TRUE(absl::StrContains(Read("root ::= " + std::string(1000, '('), ""), "nested more than 64 deep"));
  EXPECT_TRUE(absl::StrContains(Read("root ::= \"a\"" + std::string(1000, '*'), ""), "quantifiers in a row"));
  EXPECT_TRUE(absl::StrContains(Read(std::string(kMaxGrammarBytes + 1, ' '), ""), "bytes, at most"));
  EXPECT_TRUE(absl::StrContains(Read("root ::= @a", ""), "the name of a token"));
  EXPECT_TRUE(absl::StrContains(Read("root ::= @\"\"", ""), "no name"));
  std::string many = "root ::= \"a\"\n";
  for (size_t i = 0; i <= kMaxGrammarRules; ++i) absl::StrAppend(&many, "r", i, " ::= \"a\"\n");
  EXPECT_TRUE(absl::StrContains(Read(many, ""), "more than 20000 rules"));
  many = "root ::= ";
  for (size_t i = 0; i <= kMaxGrammarExpressions; ++i) many += ".";
  EXPECT_TRUE(absl::StrContains(Read(many, ""), "expressions"));
}

// Ambiguity must not multiply what is kept, and recursion on the right must not pile up.
TEST(GrammarTest, AmbiguousGrammarsStaySmall) {
  const std::string text(3000, 'a');
  EXPECT_EQ(Read("root ::= (\"a\" | \"a\" | \"aa\")*", text), "text");
  EXPECT_EQ(Read("root ::= \"a\" root \"b\" | \"a\" root \"c\" | \"\"", text), "begin");
  EXPECT_EQ(Read("root ::= list\nlist ::= \"a\" list | \"\"", text), "text");
  std::string diamonds = "root ::= ";
  for (int i = 0; i < 500; ++i) diamonds += "(\"\" | \"\" | \"x\"?) ";
  EXPECT_EQ(Read(diamonds + "\"a\"", "a"), "text");
}

// A repetition looks through names for its characters, and must not find itself without end.
TEST(GrammarTest, RepetitionsWithinTheirOwnBodies) {
  EXPECT_EQ(Read("root ::= \"(\" root* \")\"", "(()(()))"), "text");
  EXPECT_EQ(Read("root ::= \"(\" root* \")\"", "(()(())"), "begin");
  EXPECT_EQ(Read("root ::= \"(\" root* \")\"", "())"), "no");
  EXPECT_EQ(Read("root ::= x+\nx ::= [a-z] | \"(\" x{2,3} \")\"", "a(b(cde))"), "text");
  EXPECT_EQ(Read("root ::= x+\nx ::= [a-z] | \"(\" x{2,3} \")\"", "a(b)"), "no");
  EXPECT_EQ(Read("root ::= x\nx ::= \"<\" y* \">\"\ny ::= \"[\" x* \"]\" | [a]", "<a[<><aa>]a>"), "text");
  EXPECT_TRUE(absl::StrContains(Read("root ::= \"a\" root+", ""), "goes on for ever"));
  // Each name within the body of each other: copies of copies.
  std::string many;
  for (int rule = 0; rule < 12; ++rule) {
    absl::StrAppend(&many, rule == 0 ? "root" : absl::StrCat("r", rule), " ::= \"a\" | \"(\"");
    for (int other = 1; other < 12; ++other) absl::StrAppend(&many, " r", other, "*");
    absl::StrAppend(&many, " \")\"\n");
  }
  const std::string read = Read(many, "((a)a)");
  EXPECT_TRUE(read == "text" || absl::StrContains(read, "places")) << read;
}

// Where a text may stand at too many places at once, what leads there counts as not allowed.
TEST(GrammarTest, TooManyPlacesAreRefused) {
  const std::string grammar = "root ::= (((\"a\"{1,1000} \"b\"?){1,1000} \"c\"?){1,1000} \"d\"?){1,1000}";
  EXPECT_EQ(Read(grammar, "aaaa"), "text");
  EXPECT_EQ(Read(grammar, std::string(2000, 'a')), "no");
}

TEST(GrammarTest, WritesLiteralsAndClasses) {
  const std::string text = "a\"\\\n\x01 é";
  EXPECT_EQ(Read("root ::= " + GrammarLiteral(text), text), "text");
  const CodePointSet set({{'-', '-'}, {']', '^'}, {'a', 'c'}, {0x1F600, 0x1F64F}});
  for (const char* one : {"-", "]", "^", "b", "😀"})
    EXPECT_EQ(Read("root ::= " + GrammarClass(set), one), "text");
  EXPECT_EQ(Read("root ::= " + GrammarClass(set), "d"), "no");
}

TEST(VocabularyTest, WhatCannotBeWrittenIsLeftOutOrRefused) {
  // No bytes of characters: é is a token, 你 is not, and \xE4 leads nowhere.
  auto vocabulary = Vocabulary::Make({"a", "b", "é", "\xE4", "ab\xE4"}).value();
  EXPECT_FALSE(CompiledGrammar::Make("root ::= \"a你\"", vocabulary).ok());
  auto compiled = CompiledGrammar::Make("root ::= \"a\" [^x] | \"你\"", vocabulary);
  ASSERT_TRUE(compiled.ok()) << compiled.status();
  Matcher matcher(*compiled);
  EXPECT_EQ(*matcher.Mask().value(), IdBits{0b00001});
  ASSERT_TRUE(matcher.Accept(0));
  EXPECT_EQ(*matcher.Mask().value(), IdBits{0b00111});
}

TEST(VocabularyTest, EmptyTokensNeverCome) {
  auto vocabulary = Vocabulary::Make({"", "a", ""}).value();
  Matcher matcher(CompiledGrammar::Make("root ::= \"a\"*", vocabulary).value());
  EXPECT_EQ(*matcher.Mask().value(), IdBits{0b010});
  EXPECT_FALSE(matcher.Accept(0));
  EXPECT_FALSE(matcher.Accept(7));
  EXPECT_FALSE(matcher.Accept(-1));
}

// "[A]" is a control token here and "[B]" letters; a byte that control tokens' bytes begin with is none.
TEST(VocabularyTest, ControlTokensComeWhereAGrammarNamesThem) {
  class OneControlToken : public Tokenizer {
   public:
    absl::StatusOr<std::vector<int32_t>> Encode(std::string_view, bool) const override {
      return absl::UnimplementedError("");
    }
    std::string Bytes(int32_t id, bool special) const override {
      static const char* const kTokens[] = {"", "", "[", "A", "B", "]", "x", "\xFF", "\xFE", "[B]"};
      if (id < 2) return special ? (id == 0 ? "</s>" : "[A]") : "";
      return kTokens[id];
    }
    bool EndsGeneration(int32_t id) const override { return id == 0; }
    int32_t VocabSize() const override { return 10; }
    const TokenizerSpec& Spec() const override { return spec_; }

   private:
    TokenizerSpec spec_;
  };
  const auto vocabulary = Vocabulary::Make(OneControlToken()).value();
  Matcher matcher(
      CompiledGrammar::Make("root ::= \"x\" @\"[A]\" . | @\"[B]\" | @\"</s>\"", vocabulary).value());
  EXPECT_EQ(*matcher.Mask().value(), IdBits{1 << 2 | 1 << 6 | 1 << 9});
  ASSERT_TRUE(matcher.Accept(6));
  EXPECT_EQ(*matcher.Mask().value(), IdBits{1 << 1});
  EXPECT_FALSE(matcher.Accept(7));
  EXPECT_FALSE(matcher.Accept(std::string_view("[A]")));
  ASSERT_TRUE(matcher.Accept(1));
  EXPECT_EQ(*matcher.Mask().value(), IdBits{1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6});
  EXPECT_FALSE(matcher.Accept(1));  // a dot is a character
}

TEST(TextConstraintTest, BeginsWithinTheTokenThatEndsTheMarker) {
  auto vocabulary =
      Vocabulary::Make({"<", "/t", ">", "/t>y", "/t>n", "/t>\n", "y", "x", "\n", "<</t>"}).value();
  auto constraint = TextConstraint::Make("root ::= \"y\"", "</t>", false, vocabulary);
  ASSERT_TRUE(constraint.ok()) << constraint.status();
  TextMatcher matcher(*constraint);
  EXPECT_EQ(matcher.Mask().value(), nullptr);
  EXPECT_FALSE(matcher.MayEnd());
  for (const int32_t id : {7, 0, 0}) ASSERT_TRUE(matcher.Accept(id));
  ASSERT_NE(matcher.Mask().value(), nullptr);
  for (int32_t id = 0; id < 10; ++id) EXPECT_EQ(HasBit(*matcher.Mask().value(), id), id != 4) << id;
  TextMatcher whole = matcher;
  EXPECT_FALSE(whole.Accept(4));
  ASSERT_TRUE(whole.Accept(3));
  EXPECT_TRUE(whole.IsComplete());
  ASSERT_TRUE(matcher.Accept(5));
  EXPECT_FALSE(matcher.IsComplete());
  EXPECT_EQ(*matcher.Mask().value(), IdBits{1 << 6 | 1 << 8});
  ASSERT_TRUE(matcher.Accept(6));
  EXPECT_TRUE(matcher.IsComplete());
}

// A marker in what the model thinks is none, whether it thinks is seen by how its text begins.
TEST(TextConstraintTest, MarkersInThoughtsAreNone) {
  const auto begins = [](std::string_view text, ThoughtMarkers thoughts) {
    TextMatcher matcher(
        TextConstraint::Make("root ::= \"y\"", "<tool>", true, Bytes(), std::move(thoughts)).value());
    for (const char c : text) EXPECT_TRUE(matcher.Accept(static_cast<uint8_t>(c)));
    return !matcher.MayEnd();  // which it may where it is free
  };
  const ThoughtMarkers maybe = {"</think>", "<think>"};
  EXPECT_TRUE(begins("<tool>", maybe));
  EXPECT_TRUE(begins(" <th<<tool>", maybe));
  EXPECT_TRUE(begins("a <think> <tool>", maybe));
  EXPECT_FALSE(begins("\n<think> <tool>", maybe));
  EXPECT_FALSE(begins("<think><tool></think>", maybe));
  EXPECT_TRUE(begins("<think><tool></think> so <tool>", maybe));
  const ThoughtMarkers open = {"</think>", ""};
  EXPECT_FALSE(begins("<tool>", open));
  EXPECT_TRUE(begins("<tool></think><tool>", open));
  EXPECT_FALSE(TextConstraint::Make("root ::= \"y\"", "", true, Bytes(), open).ok());
  EXPECT_FALSE(TextConstraint::Make("root ::= \"y\"", "<th", true, Bytes(), maybe).ok());
}

TEST(TextConstraintTest, MarkersThatOverlapThemselvesAreFound) {
  auto vocabulary = Vocabulary::Make({"a", "b", "y"}).value();
  TextMatcher matcher(TextConstraint::Make("root ::= \"y\"", "aab", true, vocabulary).value());
  for (const int32_t id : {0, 0, 0, 1}) ASSERT_TRUE(matcher.Accept(id));
  EXPECT_FALSE(matcher.MayEnd());
  EXPECT_EQ(*matcher.Mask().value(), IdBits{0b100});
}

}  // namespace
}  // namespace moepool
