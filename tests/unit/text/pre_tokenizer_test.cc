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
  for (const char* name : {"", "tekken", "SmolLM", "qwen2 "}) {
    const absl::Status status = PreTokenizer::Make(name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("\"") + name + "\""));
    EXPECT_THAT(std::string(status.message()), HasSubstr("smollm, gpt-2, llama-bpe, qwen2"));
  }
}

TEST(PreTokenizer, PiecesAreAllOfTheText) {
  const uint32_t seed = 20240607;
  std::mt19937 random(seed);
  const char32_t characters[] = {'a', 'B', '1',    ' ',   ' ',   '\n',    '\r',   '\t', '\'',   's',
                                 '.', 0,   0x4E2D, 0x301, 0x663, 0x1F600, 0x200D, 0xA0, 0x3000, 0x10FFFF};
  for (const char* rule : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    for (int i = 0; i < 2000; ++i) {
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

TEST(PreTokenizer, LongRunsStayWithinTheLimits) {
  for (const char* rule : {"smollm", "gpt-2", "llama-bpe", "qwen2"}) {
    for (const char* unit : {"a", " ", "\n", "1", "!", "'", "中", " \n", "'s", "e\u0301"}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      EXPECT_FALSE(Split(rule, text + "x").empty());
    }
  }
}

}  // namespace
}  // namespace moepool
