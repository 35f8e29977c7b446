#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/base/utf8.h"
#include "common/text/tokenizer.h"

namespace moepool {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Ids: 0 <unk>, 1 <s>, 2 </s>, then the pieces, then the bytes where there are any.
TokenizerSpec Spec(std::string_view model, const std::vector<std::pair<std::string, float>>& pieces,
                   bool byte_tokens) {
  TokenizerSpec spec;
  spec.model = model;
  spec.tokens = {"<unk>", "<s>", "</s>"};
  spec.types = {TokenType::kUnknown, TokenType::kControl, TokenType::kControl};
  spec.scores = {0, 0, 0};
  for (const auto& [piece, score] : pieces) {
    spec.tokens.push_back(piece);
    spec.types.push_back(TokenType::kNormal);
    spec.scores.push_back(score);
  }
  for (int byte = 0; byte_tokens && byte < 256; ++byte) {
    spec.tokens.push_back(absl::StrFormat("<0x%02X>", byte));
    spec.types.push_back(TokenType::kByte);
    spec.scores.push_back(0);
  }
  return spec;
}

std::vector<int32_t> Encode(const Tokenizer& tokenizer, std::string_view text, bool parse_special = false) {
  return tokenizer.Encode(text, parse_special).value();
}

std::string AllBytes(const Tokenizer& tokenizer, std::string_view text) {
  std::string bytes;
  for (const int32_t id : Encode(tokenizer, text)) bytes += tokenizer.Bytes(id, false);
  return bytes;
}

std::vector<std::string> Pieces(const Tokenizer& tokenizer, std::string_view text,
                                bool parse_special = false) {
  std::vector<std::string> pieces;
  for (const int32_t id : Encode(tokenizer, text, parse_special)) {
    pieces.push_back(tokenizer.Spec().tokens[id]);
  }
  return pieces;
}

std::string Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool begins_text = true) {
  Detokenizer detokenizer(&tokenizer, false, begins_text);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Finish();
}

TEST(SentencePieceBpe, TheHighestScoreMergesFirstAndTheLeftmostOfEqualOnes) {
  const auto tokenizer =
      MakeTokenizer(Spec("llama", {{"a", -9}, {"b", -9}, {"aa", -1}, {"ab", -0.5}, {"aaa", -2}}, true))
          .value();
  EXPECT_THAT(Pieces(*tokenizer, "aab"), ElementsAre("a", "ab"));
  EXPECT_THAT(Pieces(*tokenizer, "aaaaa"), ElementsAre("aa", "aaa"));
  const auto equal = MakeTokenizer(Spec("llama", {{"ab", -1}, {"bc", -1}, {"cd", -1}}, true)).value();
  EXPECT_THAT(Pieces(*equal, "abcd"), ElementsAre("ab", "cd"));
}

// "x" and "y" are no pieces, yet together they are one.
TEST(SentencePieceBpe, MergesCharactersThatAreNoPieces) {
  const auto tokenizer = MakeTokenizer(Spec("llama", {{"xy", -1}, {"xyz", -2}}, true)).value();
  EXPECT_THAT(Pieces(*tokenizer, "xyzxyx"), ElementsAre("xyz", "xy", "<0x78>"));
}

// Most vocabularies have no such piece, and are merged word by word.
TEST(SentencePieceBpe, PiecesMayLeadAcrossWords) {
  std::vector<std::pair<std::string, float>> pieces = {{"a", -9}, {"b", -9}, {"\u2581", -9}, {"\u2581b", -1}};
  EXPECT_THAT(Pieces(*MakeTokenizer(Spec("llama", pieces, true)).value(), "a b  b"),
              ElementsAre("a", "\u2581b", "\u2581", "\u2581b"));
  pieces.emplace_back("a\u2581b", -2);
  EXPECT_THAT(Pieces(*MakeTokenizer(Spec("llama", pieces, true)).value(), "a b  b"),
              ElementsAre("a\u2581b", "\u2581", "\u2581b"));
}

TEST(SentencePieceUnigram, TheBestSumWins) {
  const auto tokenizer =
      MakeTokenizer(
          Spec("t5", {{"a", -1}, {"b", -2}, {"ab", -4}, {"abc", -3.5}, {"c", -3}, {"bc", -2.4}}, false))
          .value();
  EXPECT_THAT(Pieces(*tokenizer, "ab"), ElementsAre("a", "b"));
  EXPECT_THAT(Pieces(*tokenizer, "abc"), ElementsAre("a", "bc"));
  EXPECT_THAT(Pieces(*tokenizer, "abxyc"), ElementsAre("a", "b", "<unk>", "c"));
  const auto bytes = MakeTokenizer(Spec("t5", {{"a", -1}}, true)).value();
  EXPECT_THAT(Pieces(*bytes, "a\u00E9\xFF"), ElementsAre("a", "<0xC3>", "<0xA9>", "<0xFF>"));
}

TEST(SentencePiece, ByteTokensStandForWhatHasNoPiece) {
  const auto tokenizer = MakeTokenizer(Spec("llama", {{"a", -1}, {"\u2581", -1}}, true)).value();
  EXPECT_THAT(Pieces(*tokenizer, "a \n\xFF\xC3"), ElementsAre("a", "\u2581", "<0x0A>", "<0xFF>", "<0xC3>"));
  std::string all;
  for (int i = 0; i < 512; ++i) all.push_back(static_cast<char>(i * 7 + i / 256));
  EXPECT_EQ(Decode(*tokenizer, {258 + 3, 'x' + 5, 0xC3 + 5, 0xA9 + 5}), "x\u00E9");
  EXPECT_EQ(AllBytes(*tokenizer, all), all);
  const auto without = MakeTokenizer(Spec("llama", {{"a", -1}}, false)).value();
  EXPECT_THAT(Pieces(*without, "xya\xFFz"), ElementsAre("<unk>", "a", "<unk>"));
}

TEST(SentencePiece, ASpaceStandsInFrontOfEachStretchOfText) {
  TokenizerSpec spec = Spec("llama", {{"\u2581", -9}, {"a", -9}, {"\u2581a", -1}}, true);
  spec.add_space_prefix = true;
  spec.tokens[2] = "[X]";
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Pieces(*tokenizer, "a a"), ElementsAre("\u2581a", "\u2581a"));
  EXPECT_THAT(Pieces(*tokenizer, " a"), ElementsAre("\u2581", "\u2581a"));
  EXPECT_THAT(Pieces(*tokenizer, "<s>a[X][X] ", true),
              ElementsAre("<s>", "\u2581a", "[X]", "[X]", "\u2581", "\u2581"));
  EXPECT_THAT(Pieces(*tokenizer, ""), IsEmpty());
  EXPECT_EQ(Decode(*tokenizer, Encode(*tokenizer, " a a")), " a a");
  EXPECT_EQ(Decode(*tokenizer, {1, 5, 5}), "a a");  // a control token is no text
  EXPECT_EQ(Decode(*tokenizer, {5, 5}, /*begins_text=*/false), " a a");
  spec.add_space_prefix = false;
  const auto without = MakeTokenizer(spec).value();
  EXPECT_THAT(Pieces(*without, "a a"), ElementsAre("a", "\u2581a"));
  EXPECT_EQ(Decode(*without, {5, 5}), " a a");
}

TEST(SentencePiece, ExtraSpacesAreRemovedWhereAsked) {
  TokenizerSpec spec = Spec("t5", {{"\u2581", -2}, {"a", -1}}, false);
  spec.add_space_prefix = true;
  spec.remove_extra_whitespaces = true;
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Pieces(*tokenizer, "  a   a  "), ElementsAre("\u2581", "a", "\u2581", "a"));
  EXPECT_THAT(Pieces(*tokenizer, "   "), IsEmpty());
}

// As Gemma has them: spelled with U+2581, and standing for spaces.
TEST(SentencePiece, UserDefinedTokensAreMatchedBeforeAndAfterNormalisation) {
  for (const char* model : {"llama", "t5"}) {
    TokenizerSpec spec = Spec(model, {{"\u2581", -1}, {"a", -1}, {"\u2581\u2581", 0}, {"<b>", 0}}, true);
    spec.types[5] = spec.types[6] = TokenType::kUserDefined;
    const auto tokenizer = MakeTokenizer(spec).value();
    EXPECT_THAT(Pieces(*tokenizer, "a  a<b>a"), ElementsAre("a", "\u2581\u2581", "a", "<b>", "a"));
    EXPECT_EQ(tokenizer->Bytes(5, false), "  ");
  }
}

TEST(SentencePiece, WhiteSpaceAfterSpecialTokensIsDroppedWhereAsked) {
  TokenizerSpec spec = Spec("llama", {{"\u2581", -9}, {"a", -9}, {"\u2581a", -1}}, true);
  spec.tokens[2] = "<|user|>";
  spec.strip_after_special = true;
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_THAT(Pieces(*tokenizer, "<s> a<|user|> \n\u3000\u00A0a \xE3", true),
              ElementsAre("<s>", "\u2581a", "<|user|>", "a", "\u2581", "<0xE3>"));
}

TEST(SentencePiece, EndsGeneration) {
  TokenizerSpec spec = Spec("llama", {{"a", -1}}, true);
  const auto tokenizer = MakeTokenizer(spec).value();
  EXPECT_TRUE(tokenizer->EndsGeneration(2));
  EXPECT_FALSE(tokenizer->EndsGeneration(1));
}

TEST(SentencePiece, SaysWhatIsMalformed) {
  for (const char* model : {"llama", "t5"}) {
    const auto expect = [&](const auto& cause, const auto& spoil) {
      TokenizerSpec spec = Spec(model, {{"a", -1}, {"b", -2}}, true);
      spoil(spec);
      const absl::Status status = MakeTokenizer(std::move(spec)).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
      EXPECT_THAT(std::string(status.message()), cause);
    };
    using S = TokenizerSpec;
    expect(HasSubstr("0 token scores for 261 tokens"), [](S& s) { s.scores.clear(); });
    expect(HasSubstr("260 token scores for 261 tokens"), [](S& s) { s.scores.pop_back(); });
    expect(HasSubstr("token 3 has the score nan"), [](S& s) { s.scores[3] = NAN; });
    expect(HasSubstr("token 4 has the score -inf"), [](S& s) { s.scores[4] = -INFINITY; });
    expect(HasSubstr("token 4 has 0 bytes, expected 1 to 512"), [](S& s) { s.tokens[4].clear(); });
    expect(HasSubstr("token 4 has 513 bytes"), [](S& s) { s.tokens[4] = std::string(513, 'x'); });
    expect(HasSubstr("token 4 has 513 bytes, at most 512"), [](S& s) {
      s.tokens[4] = std::string(513, 'x');
      s.types[4] = TokenType::kControl;
    });
    expect(HasSubstr("tokens 3 and 4 are both \"a\""), [](S& s) { s.tokens[4] = "a"; });
    expect(HasSubstr("255 byte tokens, expected 256 or none"), [](S& s) { s.types[5] = TokenType::kUnused; });
    expect(AllOf(HasSubstr("token 5 is a byte"), HasSubstr("<0x0G>")), [](S& s) { s.tokens[5] = "<0x0G>"; });
    expect(HasSubstr("token 5 is a byte"), [](S& s) { s.tokens[5] = "<0x-1>"; });
    expect(HasSubstr("tokens 15 and 16 are both the byte 10"), [](S& s) { s.tokens[16] = "<0x0a>"; });
    expect(HasSubstr("unk id 261 is outside a vocabulary of 261"), [](S& s) { s.unk_id = 261; });
    expect(HasSubstr("no byte tokens and no unknown token"), [](S& s) {
      s.tokens.resize(5);
      s.scores.resize(5);
      s.types.assign(5, TokenType::kNormal);
    });
    expect(HasSubstr("precompiled_charsmap: 3 bytes"), [](S& s) { s.precompiled_charsmap = "abc"; });
  }
}

TEST(SentencePiece, ExtremeScoresStillCutTheWholeText) {
  constexpr float kMost = std::numeric_limits<float>::max();
  for (const char* model : {"llama", "t5"}) {
    const auto tokenizer =
        MakeTokenizer(Spec(model, {{"a", kMost}, {"b", -kMost}, {"ab", kMost}, {"ba", -kMost}}, true))
            .value();
    std::string text;
    for (int i = 0; i < 1000; ++i) text += i % 3 == 0 ? "ab" : "bax";
    EXPECT_EQ(Decode(*tokenizer, Encode(*tokenizer, text)), text) << model;
  }
}

// Algorithms that are quadratic in the text take hours over these.
TEST(SentencePiece, LongTexts) {
  std::vector<std::pair<std::string, float>> pieces = {{"\u2581", -5}, {"a", -5}, {"\u4E2D", -5}};
  for (int length = 2; length <= 64; length *= 2) {
    pieces.emplace_back(std::string(length, 'a'), -1.0f - static_cast<float>(length) / 16);
  }
  for (const char* model : {"llama", "t5"}) {
    const auto tokenizer = MakeTokenizer(Spec(model, pieces, true)).value();
    for (const char* unit : {"a", " ", "\u4E2D", "\xFF", "x", "a "}) {
      std::string text;
      while (text.size() < 1'000'000) text += unit;
      EXPECT_TRUE(AllBytes(*tokenizer, text) == text) << model << " " << unit;
    }
  }
}

}  // namespace
}  // namespace moepool
