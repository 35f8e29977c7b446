#include "common/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "tests/unit/text/small_vocabulary.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text, bool parse_special = false) {
  return tokenizer.Encode(text, parse_special).value();
}

std::string Bytes(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::string bytes;
  for (const int32_t id : ids) bytes += tokenizer.Bytes(id, true);
  return bytes;
}

TEST(BpeTokenizer, MergesWithinWordsOnly) {
  const auto tokenizer = MakeTokenizer(SmallVocabulary("gpt-2", {"Ġ a", "a a", "Ġa Ġ"})).value();
  EXPECT_THAT(Encode(*tokenizer, ""), IsEmpty());
  EXPECT_THAT(Encode(*tokenizer, "aa a a"), ElementsAre(257, 256, 256));
  EXPECT_EQ(tokenizer->Bytes(258, false), " a ");
  EXPECT_EQ(tokenizer->VocabSize(), 259);
}

TEST(BpeTokenizer, ControlTokensNeedParseSpecialAndAddedOnesDoNot) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  const int32_t end = AddToken(&spec, "<end>", TokenType::kControl);
  const int32_t tool = AddToken(&spec, "<tool>", TokenType::kUserDefined);
  const int32_t longer = AddToken(&spec, "<end><tool>", TokenType::kControl);
  const int32_t unused = AddToken(&spec, "<pad>", TokenType::kUnused);
  const int32_t unknown = AddToken(&spec, "<unk>", TokenType::kUnknown);
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Encode(*tokenizer, "a<end>b<tool>", true), ElementsAre('a', end, 'b', tool));
  EXPECT_THAT(Encode(*tokenizer, "<end><tool><end>", true), ElementsAre(longer, end));
  EXPECT_THAT(Encode(*tokenizer, "<end><tool>", false), ElementsAre('<', 'e', 'n', 'd', '>', tool));
  EXPECT_THAT(Encode(*tokenizer, "<unk>", true), ElementsAre(unknown));
  EXPECT_THAT(Encode(*tokenizer, "<pad>", true), ElementsAre('<', 'p', 'a', 'd', '>'));
  EXPECT_EQ(tokenizer->Bytes(end, true), "<end>");
  EXPECT_EQ(tokenizer->Bytes(end, false), "");
  EXPECT_EQ(tokenizer->Bytes(unknown, false), "");
  EXPECT_EQ(tokenizer->Bytes(tool, false), "<tool>");
  EXPECT_EQ(tokenizer->Bytes(unused, true), "");
  EXPECT_EQ(tokenizer->Bytes(-1, true), "");
  EXPECT_EQ(tokenizer->Bytes(tokenizer->VocabSize(), true), "");
}

// Added tokens are spelled as text, not in the byte alphabet.
TEST(BpeTokenizer, AddedTokensAreLiteral) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  const int32_t spaces = AddToken(&spec, "   ", TokenType::kUserDefined);
  const int32_t accent = AddToken(&spec, "éé", TokenType::kUserDefined);
  const int32_t literal = AddToken(&spec, "中", TokenType::kNormal);
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Encode(*tokenizer, "x    ééy"), ElementsAre('x', spaces, ' ', accent, 'y'));
  EXPECT_EQ(tokenizer->Bytes(accent, false), "éé");
  EXPECT_EQ(tokenizer->Bytes(literal, false), "中");
}

TEST(BpeTokenizer, LlamaTakesWholeWordsFirst) {
  const std::vector<std::string> merges = {"b c", "a b", "ab c"};
  const auto whole = MakeTokenizer(SmallVocabulary("llama-bpe", merges)).value();
  const auto merged = MakeTokenizer(SmallVocabulary("gpt-2", merges)).value();
  EXPECT_THAT(Encode(*whole, "abc abcd"), ElementsAre(258, ' ', 'a', 256, 'd'));
  EXPECT_THAT(Encode(*merged, "abc"), ElementsAre('a', 256));
}

TEST(BpeTokenizer, QwenComposes) {
  const auto qwen = MakeTokenizer(SmallVocabulary("qwen2")).value();
  EXPECT_EQ(Bytes(*qwen, Encode(*qwen,
                                "e\u0301\xFF\xFE"
                                "e\u0301 \u212B")),
            "\u00E9\xFF\xFE\u00E9 \u00C5");
  // U+10F46, a mark of Unicode 11, is not moved; U+0323 is.
  EXPECT_EQ(Bytes(*qwen, Encode(*qwen, "q\u0307\U00010F46q\u0307\u0323")), "q\u0307\U00010F46q\u0323\u0307");
  const auto llama = MakeTokenizer(SmallVocabulary("llama-bpe")).value();
  EXPECT_EQ(Bytes(*llama, Encode(*llama, "e\u0301")), "e\u0301");
}

TEST(BpeTokenizer, InvalidBytesArePiecesOfTheirOwn) {
  const auto tokenizer = MakeTokenizer(SmallVocabulary("gpt-2", {"Ġ Ġ", "a ÿ", "ÿ ÿ", "Ã ©"})).value();
  EXPECT_THAT(Encode(*tokenizer,
                     "a\xFF\xFF"
                     "é  \xC3x"),
              ElementsAre('a', 0xFF, 0xFF, 259, 256, 0xC3, 'x'));
  std::string all;
  for (int i = 0; i < 512; ++i) all.push_back(static_cast<char>(i * 7 + i / 256));
  EXPECT_EQ(Bytes(*tokenizer, Encode(*tokenizer, all, true)), all);
}

TEST(BpeTokenizer, EndsGeneration) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  spec.eos_id = 'a';
  spec.eot_id = 'b';
  std::vector<int32_t> ends = {'a', 'b'};
  for (const char* name :
       {"<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|end|>", "</s>"}) {
    ends.push_back(AddToken(&spec, name, TokenType::kControl));
  }
  AddToken(&spec, "<|im_start|>", TokenType::kControl);
  AddToken(&spec, "<|eom_id|>", TokenType::kNormal);
  const auto tokenizer = MakeTokenizer(spec).value();
  for (int32_t id = -2; id < tokenizer->VocabSize() + 2; ++id) {
    EXPECT_EQ(tokenizer->EndsGeneration(id), std::find(ends.begin(), ends.end(), id) != ends.end()) << id;
  }
}

TEST(BpeTokenizer, TypesMayBeAbsent) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  spec.types.clear();
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Encode(*tokenizer, "ab"), ElementsAre('a', 'b'));
  EXPECT_EQ(tokenizer->Spec().tokens.size(), 256u);
}

TEST(MakeTokenizer, SaysWhatIsMalformed) {
  const auto expect = [](std::string_view cause, const auto& spoil) {
    TokenizerSpec spec = SmallVocabulary("gpt-2", {"a b"});
    spoil(spec);
    const absl::Status status = MakeTokenizer(std::move(spec)).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << cause;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(cause)));
  };
  using Spec = TokenizerSpec;
  expect("model \"bert\" is not known; known are: gpt2, llama, t5", [](Spec& s) { s.model = "bert"; });
  expect("pre-tokenizer \"bert-bge\" is not known", [](Spec& s) { s.pre = "bert-bge"; });
  expect("no tokens", [](Spec& s) { s.tokens.clear(); });
  expect("256 token types for 257 tokens", [](Spec& s) { s.types.pop_back(); });
  expect("3 token scores for 257 tokens", [](Spec& s) { s.scores = {1, 2, 3}; });
  expect("token 5 has type 9", [](Spec& s) { s.types[5] = static_cast<TokenType>(9); });
  expect("token 5 has type -1", [](Spec& s) { s.types[5] = static_cast<TokenType>(-1); });
  expect("tokens 98 and 256 are both \"b\"", [](Spec& s) { s.tokens[256] = "b"; });
  expect("token 3 is not UTF-8: \"\\xff\"", [](Spec& s) { s.tokens[3] = "\xFF"; });
  expect("eos id 257 is outside a vocabulary of 257", [](Spec& s) { s.eos_id = 257; });
  expect("bos id -2 is outside", [](Spec& s) { s.bos_id = -2; });
  expect("unk id 2147483647", [](Spec& s) { s.unk_id = std::numeric_limits<int32_t>::max(); });
  expect("merge 1 \"b c\" needs \"bc\", which is not a token", [](Spec& s) { s.merges.push_back("b c"); });
  expect("needs \"中\"", [](Spec& s) { s.merges.push_back("中 c"); });
  for (const char* merge : {"", " ", "ab", "a b c", "a  b", " a", "a "}) {
    expect(std::string("merge 1 \"") + merge + "\"", [&](Spec& s) { s.merges.push_back(merge); });
  }
}

TEST(MakeTokenizer, EmptyTokensAreNeverMatched) {
  TokenizerSpec spec = SmallVocabulary("gpt-2");
  AddToken(&spec, "", TokenType::kUserDefined);
  AddToken(&spec, "", TokenType::kNormal);
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Encode(*tokenizer, "ab", true), ElementsAre('a', 'b'));
}

}  // namespace
}  // namespace moepool
