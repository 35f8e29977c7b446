#include <gtest/gtest.h>

#include <iterator>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "common/base/utf8.h"
#include "common/text/tokenizer.h"
#include "tests/unit/text/small_vocabulary.h"

namespace moepool {
namespace {

std::unique_ptr<Tokenizer> Bytewise() { return MakeTokenizer(SmallVocabulary("gpt-2")).value(); }

std::string Decode(const Tokenizer& tokenizer, std::string_view bytes) {
  Detokenizer detokenizer(&tokenizer, false);
  std::string text;
  for (const char byte : bytes) text += detokenizer.Push(static_cast<uint8_t>(byte));
  return text + detokenizer.Finish();
}

TEST(Detokenizer, HoldsBackHalfCharacters) {
  const auto tokenizer = Bytewise();
  Detokenizer detokenizer(tokenizer.get(), false);
  EXPECT_EQ(detokenizer.Push(0xF0), "");
  EXPECT_EQ(detokenizer.Push(0x9F), "");
  EXPECT_EQ(detokenizer.Push(0x98), "");
  EXPECT_EQ(detokenizer.Push(0x80), "😀");
  EXPECT_EQ(detokenizer.Push(0xE2), "");
  EXPECT_EQ(detokenizer.Push('x'), "\uFFFDx");
  EXPECT_EQ(detokenizer.Push(0xE2), "");
  EXPECT_EQ(detokenizer.Push(0x82), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
  EXPECT_EQ(detokenizer.Finish(), "");
  EXPECT_EQ(detokenizer.Push('y'), "y");
}

// Each expectation is what Python's bytes.decode(errors="replace") gives.
TEST(Detokenizer, ReplacesAsPythonDoes) {
  const auto tokenizer = Bytewise();
  const std::pair<std::string_view, std::string_view> cases[] = {
      {"\x80", "\uFFFD"},
      {"\xC0\xAF", "\uFFFD\uFFFD"},
      {"\xE2\x82", "\uFFFD"},
      {"\xE2\x28\xA1", "\uFFFD(\uFFFD"},
      {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x80\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF0\x9F\x98\xF0\x9F\x98\x80", "\uFFFD😀"},
      {"\xF4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD"},
      {"\xF1\x80\x80\xC3\xA9\xFF", "\uFFFDé\uFFFD"},
  };
  for (const auto& [bytes, text] : cases) EXPECT_EQ(Decode(*tokenizer, bytes), text);
}

TEST(Detokenizer, ChunksDoNotMatter) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  const uint32_t seed = 99;
  std::mt19937 random(seed);
  const std::string_view parts[] = {"a",        "é",    "中",   "😀",    "\xE4",    "\xB8",
                                    "\xF0\x9F", "\x98", "\xFF", "\xC3", "\xED\xA0"};
  std::vector<std::string> pieces;
  for (int i = 0; i < 300; ++i) {
    // A number in the middle keeps the tokens distinct and lets both ends be half characters.
    const auto some = [&] {
      std::string bytes;
      for (uint32_t n = 1 + random() % 4; n > 0; --n) bytes += parts[random() % std::size(parts)];
      return bytes;
    };
    pieces.push_back(some() + "#" + std::to_string(i) + "#" + some());
    AddToken(&spec, SpellingFromBytes(pieces.back()), TokenType::kNormal);
  }
  const auto tokenizer = MakeTokenizer(spec).value();
  for (int round = 0; round < 200; ++round) {
    Detokenizer detokenizer(tokenizer.get(), false);
    std::string bytes, text;
    for (int n = 0; n < 20; ++n) {
      const auto piece = static_cast<int32_t>(random() % pieces.size());
      bytes += pieces[piece];
      const std::string part = detokenizer.Push(256 + piece);
      ASSERT_TRUE(IsUtf8(part));
      text += part;
    }
    text += detokenizer.Finish();
    ASSERT_EQ(text, Decode(*tokenizer, bytes)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace moepool
