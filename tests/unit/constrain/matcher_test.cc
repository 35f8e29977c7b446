// Masks against the oracle: each token's bytes, tried one by one, for random grammars, vocabularies and
// texts.
#include "common/constrain/matcher.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/unit/constrain/oracle.h"

namespace moepool {
namespace {

using Random = std::mt19937;

size_t Below(Random* random, size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(*random); }

// Bytes, pieces of characters, whole words, empty tokens: as byte-level and byte-fallback vocabularies have
// them.
std::vector<std::string> RandomTokens(Random* random, bool all_bytes) {
  std::vector<std::string> tokens = {"", "a", "b", "c", "\"", " ", "\n", "\xC3\xA9", "\xE4\xBD\xA0"};
  if (all_bytes) {
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  }
  const std::vector<std::string> parts = {"a", "b", "c",    "ab",   "\"",       " ",        "{",
                                          ",", "é", "\xC3", "\xA9", "\xF0\x9F", "\x98\x80", "你"};
  for (int i = 0; i < 200; ++i) {
    std::string token;
    for (size_t n = Below(random, 6) + 1; n > 0; --n) token += parts[Below(random, parts.size())];
    tokens.push_back(token);
  }
  std::shuffle(tokens.begin(), tokens.end(), *random);
  return tokens;
}

// Rules call later rules anywhere, and any rule behind a character, so that none is left-recursive.
class GrammarMaker {
 public:
  explicit GrammarMaker(Random* random) : random_(*random) {}
  std::string Make() {
    std::string text;
    for (int rule = 0; rule < kRules; ++rule) {
      absl::StrAppend(&text, rule == 0 ? "root" : absl::StrCat("r", rule), " ::= ", Choice(rule, 0), "\n");
    }
    return text;
  }

 private:
  static constexpr int kRules = 4;

  std::string Choice(int rule, int depth) {
    std::string text = Sequence(rule, depth);
    for (size_t n = Below(&random_, 3); n > 0; --n) absl::StrAppend(&text, " | ", Sequence(rule, depth));
    return text;
  }
  std::string Sequence(int rule, int depth) {
    std::string text;
    for (size_t n = Below(&random_, 4); n > 0; --n) absl::StrAppend(&text, Item(rule, depth), " ");
    return text;
  }
  std::string Item(int rule, int depth) {
    static const char* const kEnds[] = {"", "", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "{,2}"};
    const std::string end = kEnds[Below(&random_, std::size(kEnds))];
    switch (Below(&random_, depth < 2 ? 7 : 5)) {
      case 0:
        return "\"a\"" + end;
      case 1:
        return "[ab\\u00E9]" + end;
      case 2:
        return "\"b\\u4F60\"" + end;
      case 3:
        return "[^b\"\\x00-\\x1F]" + end;
      case 4:
        return rule + 1 < kRules ? absl::StrCat("r", rule + 1, end)
                                 : absl::StrCat("(\"c\" r", 1 + Below(&random_, kRules - 1), ")", end);
      default:
        return absl::StrCat("(", Choice(rule, depth + 1), ")", end);
    }
  }

  Random& random_;
};

void CheckMasks(Random* random, const std::string& text, std::vector<std::string> tokens, int texts) {
  SCOPED_TRACE(text);
  auto vocabulary = Vocabulary::Make(std::move(tokens));
  ASSERT_TRUE(vocabulary.ok());
  auto grammar = ParseGrammar(text);
  ASSERT_TRUE(grammar.ok()) << grammar.status();
  auto compiled = CompiledGrammar::Make(text, *vocabulary);
  if (!compiled.ok()) return;  // each way goes on for ever
  for (int i = 0; i < texts; ++i) {
    Matcher matcher(*compiled);
    Oracle oracle(&*grammar);
    std::string so_far;
    for (int step = 0; step < 6 && oracle.ways() < 60; ++step) {
      const auto mask = matcher.Mask().value();
      EXPECT_EQ(matcher.CanEnd(), oracle.IsText()) << so_far;
      std::vector<int32_t> allowed;
      for (int32_t id = 0; id < (*vocabulary)->size(); ++id) {
        const std::string token((*vocabulary)->bytes(id));
        const bool expected = !token.empty() && oracle.IsPrefix(token);
        ASSERT_EQ(HasBit(*mask, id), expected) << "after '" << so_far << "' token '" << token << "'";
        Matcher copy = matcher;
        ASSERT_EQ(copy.Accept(id), expected) << "after '" << so_far << "' token '" << token << "'";
        if (expected) allowed.push_back(id);
      }
      EXPECT_TRUE(!allowed.empty() || matcher.CanEnd()) << "a dead end after " << so_far;
      EXPECT_EQ(matcher.CanGoOn(), !allowed.empty());
      if (allowed.empty()) break;
      const int32_t id = allowed[Below(random, allowed.size())];
      so_far += (*vocabulary)->bytes(id);
      oracle.Push((*vocabulary)->bytes(id));
      ASSERT_TRUE(matcher.Accept(id));
    }
  }
}

TEST(MatcherTest, MasksAreTheOraclesForRandomGrammars) {
  for (uint32_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const std::string text = GrammarMaker(&random).Make();
    CheckMasks(&random, text, RandomTokens(&random, /*all_bytes=*/true), 2);
    if (testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace moepool
