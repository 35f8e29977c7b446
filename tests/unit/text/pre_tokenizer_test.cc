#include "common/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "common/base/utf8.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> Split(std::string_view rule, std::string_view text) {
  static auto& made = *new std::map<std::string, std::unique_ptr<PreTokenizer>, std::less<>>;
  auto it = made.find(rule);
  if (it == made.end()) it = made.emplace(rule, PreTokenizer::Make(rule).value()).first;
  std::vector<std::string_view> pieces;
  EXPECT_TRUE(it->second->Split(text, &pieces).ok());
  return {pieces.begin(), pieces.end()};
}

TEST(PreTokenizer, DigitsGoByTheRule) {
  constexpr std::string_view text = "a 1234567";
  EXPECT_THAT(Split("gpt-2", text), ElementsAre("a", " 1234567"));
  EXPECT_THAT(Split("smollm", text), ElementsAre("a", " ", "1", "2", "3", "4", "5", "6", "7"));
  EXPECT_THAT(Split("qwen2", text), ElementsAre("a", " ", "1", "2", "3", "4", "5", "6", "7"));
  EXPECT_THAT(Split("llama-bpe", text), ElementsAre("a", " ", "123", "456", "7"));
}

TEST(PreTokenizer, ADigitEndsARunOfSpacesInSmollmAlone) {
  EXPECT_THAT(Split("smollm", "x   1  y"), ElementsAre("x", "   ", "1", " ", " y"));
  EXPECT_THAT(Split("gpt-2", "x   1  y"), ElementsAre("x", "  ", " 1", " ", " y"));
  EXPECT_THAT(Split("qwen2", "x   1  y"), ElementsAre("x", "  ", " ", "1", " ", " y"));
}

TEST(PreTokenizer, LettersByCase) {
  EXPECT_THAT(Split("tekken", "HelloWorld HTTPServer it's"),
              ElementsAre("Hello", "World", " HTTPServer", " it", "'s"));
  EXPECT_THAT(Split("gpt-4o", "HelloWorld it's 12345"),
              ElementsAre("Hello", "World", " it's", " ", "123", "45"));
  // U+1C8A, a small letter of Unicode 16.
  EXPECT_THAT(Split("tekken", "A\u1C8AB"), ElementsAre("A\u1C8A", "B"));
}

// One rule cuts what the one before it made: "Zo" is a word, then punctuation as its author counts it.
TEST(PreTokenizer, DeepSeekCutsAgainWhatItCut) {
  EXPECT_THAT(Split("deepseek-llm", "Zo\u00EB  1234\n\nx  "),
              ElementsAre("Zo", "\u00EB", "  ", "1", "2", "3", "4", "\n", "\n", "x", "  "));
  EXPECT_THAT(Split("deepseek-coder", "Zo\u00EB, 12\u4E2Dx"),
              ElementsAre("Zo\u00EB", ",", " ", "1", "2", "\u4E2D", "x"));
  EXPECT_THAT(Split("deepseek-v3", "a  1234 \u4E2D\u6587 .x;\n"),
              ElementsAre("a", "  ", "123", "4", " ", "\u4E2D\u6587", " .", "x", ";\n"));
}

TEST(PreTokenizer, DefaultCutsPunctuationThenDigits) {
  EXPECT_THAT(Split("default", "it's $12345 x=1"),
              ElementsAre("it", "'", "s", " ", "$", "123", "45", " x", "=", "1"));
}

TEST(PreTokenizer, Contractions) {
  EXPECT_THAT(Split("gpt-2", "I'll I'LL"), ElementsAre("I", "'ll", " I", "'", "LL"));
  EXPECT_THAT(Split("llama-bpe", "I'll I'LL"), ElementsAre("I", "'ll", " I", "'LL"));
  // U+017F folds to s.
  EXPECT_THAT(Split("llama-bpe", "it'\u017Fx"), ElementsAre("it", "'\u017F", "x"));
  EXPECT_THAT(Split("gpt-2", "it'\u017Fx"), ElementsAre("it", "'", "\u017Fx"));
}

TEST(PreTokenizer, LineEnds) {
  EXPECT_THAT(Split("gpt-2", "a;\n\n b\r\n"), ElementsAre("a", ";", "\n\n", " b", "\r\n"));
  EXPECT_THAT(Split("qwen2", "a;\n\n b  \r\n x"), ElementsAre("a", ";\n\n", " b", "  \r\n", " x"));
}

TEST(PreTokenizer, SpacesAreUnicodesWhiteSpace) {
  for (const char* space :
       {"\t", "\v", "\f", "\u0085", "\u00A0", "\u1680", "\u2003", "\u2028", "\u202F", "\u3000"}) {
    EXPECT_THAT(Split("gpt-2", std::string("a") + space + "b"), ElementsAre("a", space, "b"));
  }
  for (const char* other : {"\u180E", "\u200B", "\uFEFF", "\u200D", "\x1C"}) {
    EXPECT_THAT(Split("gpt-2", std::string("!") + other + "!"), ElementsAre(std::string("!") + other + "!"));
  }
}

TEST(PreTokenizer, KnowsTheLettersAndNumbersOfUnicode16) {
  EXPECT_THAT(Split("gpt-2", "a\U00031350\U000105C0z"), ElementsAre("a\U00031350\U000105C0z"));
  EXPECT_THAT(Split("llama-bpe", "1\U00010D40\U0001CCF0"), ElementsAre("1\U00010D40\U0001CCF0"));
  // Unicode 17.
  EXPECT_THAT(Split("smollm", "!\U00011DE0!"), ElementsAre("!", "\U00011DE0", "!"));
  EXPECT_THAT(Split("gpt-2", "!\U00011DE0!"), ElementsAre("!\U00011DE0!"));
}

TEST(PreTokenizer, AliasesAndUnknownNames) {
  EXPECT_EQ(Split("llama3", "x1234"), Split("llama-bpe", "x1234"));
  EXPECT_EQ(Split("llama-v3", "x1234"), Split("llama-bpe", "x1234"));
  EXPECT_EQ(Split("deepseek-r1-qwen", "x1234"), Split("qwen2", "x1234"));
  EXPECT_EQ(Split("", "x 1234"), Split("default", "x 1234"));
  for (const char* name : {"bert", "SmolLM", "qwen2 "}) {
    const absl::Status status = PreTokenizer::Make(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("\"") + name + "\""));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("smollm, gpt-2, olmo, llama-bpe, dbrx, qwen2, qwen35, deepseek-llm"));
  }
}

TEST(PreTokenizer, PiecesAreAllOfTheText) {
  const uint32_t seed = 20240607;
  std::mt19937 random(seed);
  const char32_t characters[] = {'a', 'B', '1',    ' ',   ' ',   '\n',    '\r',   '\t', '\'',   's',
                                 '.', 0,   0x4E2D, 0x301, 0x663, 0x1F600, 0x200D, 0xA0, 0x3000, 0x10FFFF};
  for (const char* rule : {"smollm", "gpt-2", "llama-bpe", "qwen2", "qwen35", "deepseek-llm",
                           "deepseek-coder", "deepseek-v3", "tekken", "gpt-4o", "default"}) {
    for (int i = 0; i < 1000; ++i) {
      std::string text;
      for (uint32_t n = random() % 30; n > 0; --n)
        AppendUtf8(characters[random() % std::size(characters)], &text);
      std::string joined;
      for (const std::string& piece : Split(rule, text)) {
        ASSERT_FALSE(piece.empty());
        joined += piece;
      }
      ASSERT_EQ(joined, text) << rule << " seed " << seed;
    }
  }
}

// Rules that walk a run of spaces once for each of them take hours over this, or hit the limits.
TEST(PreTokenizer, LongRunsStayWithinTheLimits) {
  for (const char* rule : {"smollm", "gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "deepseek-coder",
                           "deepseek-v3", "tekken", "gpt-4o", "default"}) {
    for (const char* unit : {"a", " ", "\n", "1", "!", "'", "中", " \n", "'s", "e\u0301", "A"}) {
      std::string text;
      while (text.size() < 400'000) text += unit;
      for (const char* end : {"x", "1"}) EXPECT_FALSE(Split(rule, text + end).empty());
    }
  }
}

}  // namespace
}  // namespace moepool
