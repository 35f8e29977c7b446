// Damages vocabularies and texts at random (seeded): a tokenizer is either refused with InvalidArgument or
// works and gives each byte back. Of most use under the sanitizers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_format.h"
#include "common/base/utf8.h"
#include "common/text/tokenizer.h"
#include "tests/unit/text/small_vocabulary.h"

namespace moepool {
namespace {

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  size_t Below(size_t n) { return random_() % n; }

  std::string Text(size_t max_bytes) {
    static constexpr std::string_view kParts[] = {
        "a",       "b",  "ab",       " ",  "\n",   "Ġ",    "<",        "<|x|>", "1",     "é",
        "e\u0301", "中", "👩\u200d🚀", "'s", "\xFF", "\xC3", "\xE2\x82", "\0",    "\u3000"};
    std::string text;
    while (text.size() < max_bytes && Below(12) > 0) text += kParts[Below(std::size(kParts))];
    return text;
  }

  void Damage(std::string* text) {
    if (text->empty() || Below(3) == 0) {
      *text = Text(8);
    } else if (Below(2) == 0) {
      (*text)[Below(text->size())] = static_cast<char>(random_());
    } else {
      text->erase(Below(text->size()), 1 + Below(3));
    }
  }

  void Damage(TokenizerSpec* spec) {
    const auto id = [&] { return static_cast<int32_t>(Below(400)) - 20; };
    switch (Below(12)) {
      case 0:
        return Damage(&spec->tokens[Below(spec->tokens.size())]);
      case 1:
        return Damage(&spec->merges[Below(spec->merges.size())]);
      case 2:
        spec->types[Below(spec->types.size())] = static_cast<TokenType>(static_cast<int>(Below(9)) - 1);
        return;
      case 3:
        spec->tokens.resize(1 + Below(spec->tokens.size() + 3));
        return;
      case 4:
        spec->types.resize(1 + Below(spec->types.size() + 3));
        return;
      case 5:
        spec->scores.resize(Below(2) * Below(300));
        return;
      case 6:
        spec->eos_id = id();
        return;
      case 7:
        spec->unk_id = id();
        return;
      case 8:
        AddToken(spec, Text(12), static_cast<TokenType>(Below(7)));
        return;
      case 9:
        spec->merges.push_back(spec->merges[Below(spec->merges.size())]);
        return;
      case 10:
        std::swap(spec->merges.front(), spec->merges[Below(spec->merges.size())]);
        return;
      default:
        if (Below(20) == 0) spec->pre = Text(6);
    }
  }

 private:
  std::mt19937 random_;
};

// Whether each byte has a token, and each token stands for the bytes that lead to it whatever its type.
bool Lossless(const TokenizerSpec& spec) {
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    if (std::find(spec.tokens.begin(), spec.tokens.end(), SpellingFromBytes({&c, 1})) == spec.tokens.end())
      return false;
  }
  for (size_t id = 0; id < spec.types.size(); ++id) {
    const TokenType type = spec.types[id];
    if (type == TokenType::kUnused) return false;
    if (type == TokenType::kNormal || type == TokenType::kUndefined || type == TokenType::kByte) continue;
    if (BytesFromSpelling(spec.tokens[id]) != spec.tokens[id]) return false;
  }
  return true;
}

TEST(TokenizerMutation, RefusedOrRight) {
  const uint32_t seed = 424242;
  Mutator mutator(seed);
  int refused = 0;
  int accepted = 0;
  int compared = 0;
  for (int round = 0; round < 3000; ++round) {
    constexpr const char* kRules[] = {"smollm", "gpt-2", "llama-bpe"};
    TokenizerSpec spec = SmallVocabulary(kRules[mutator.Below(3)],
                                         {"a b", "Ġ ab", "Ġ Ġ", "ab ab", "ĠĠ ĠĠ", "Ã ©", "e Ì", "eÌ ģ"});
    AddToken(&spec, "<|x|>", TokenType::kControl);
    AddToken(&spec, "<|x", TokenType::kUserDefined);
    for (size_t n = mutator.Below(4); n > 0; --n) mutator.Damage(&spec);
    auto tokenizer = MakeTokenizer(std::move(spec));
    if (!tokenizer.ok()) {
      ++refused;
      ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
      continue;
    }
    ++accepted;
    const bool lossless = Lossless((*tokenizer)->Spec());
    for (int i = 0; i < 5; ++i) {
      std::string text = mutator.Text(200);
      mutator.Damage(&text);
      for (const bool special : {false, true}) {
        const auto ids = (*tokenizer)->Encode(text, special);
        ASSERT_TRUE(ids.ok()) << ids.status();
        Detokenizer detokenizer(tokenizer->get(), true);
        std::string bytes, replaced;
        for (const int32_t id : *ids) {
          ASSERT_GE(id, 0);
          ASSERT_LT(id, (*tokenizer)->VocabSize());
          bytes += (*tokenizer)->Bytes(id, true);
          replaced += detokenizer.Push(id);
        }
        ASSERT_TRUE(IsUtf8(replaced + detokenizer.Finish()));
        if (!lossless) continue;
        ++compared;
        ASSERT_EQ(bytes, text) << "seed " << seed << " round " << round;
      }
    }
  }
  EXPECT_GT(compared, 2000);
  EXPECT_GT(refused, 300);
  EXPECT_GT(accepted, 300);
}

// A SentencePiece vocabulary with byte tokens.
TokenizerSpec SmallSentencePiece(std::string_view model) {
  TokenizerSpec spec;
  spec.model = model;
  for (const char* piece :
       {"\u2581", "a", "b", "ab", "\u2581a", "1", "\u00E9", "\u4E2D", "\u2581\u2581", "<x"}) {
    AddToken(&spec, piece, TokenType::kNormal);
  }
  for (int byte = 0; byte < 256; ++byte) AddToken(&spec, absl::StrFormat("<0x%02X>", byte), TokenType::kByte);
  AddToken(&spec, "<unk>", TokenType::kUnknown);
  AddToken(&spec, "<|x|>", TokenType::kControl);
  AddToken(&spec, "<|x", TokenType::kUserDefined);
  for (size_t id = 0; id < spec.tokens.size(); ++id) spec.scores.push_back(-static_cast<float>(id % 7));
  spec.merges = {"a b"};  // for the mutator; not read
  return spec;
}

TEST(TokenizerMutation, SentencePieceIsRefusedOrRight) {
  const uint32_t seed = 515151;
  Mutator mutator(seed);
  int refused = 0;
  int accepted = 0;
  int compared = 0;
  for (int round = 0; round < 3000; ++round) {
    TokenizerSpec spec = SmallSentencePiece(mutator.Below(2) == 0 ? "llama" : "t5");
    spec.add_space_prefix = mutator.Below(2) == 0;
    spec.remove_extra_whitespaces = mutator.Below(8) == 0;
    for (size_t n = mutator.Below(4); n > 0; --n) mutator.Damage(&spec);
    if (spec.scores.size() == spec.tokens.size() && mutator.Below(4) == 0) {
      constexpr float kScores[] = {NAN, INFINITY, 1e38f, -1e38f, 0.0f, 7.0f};
      spec.scores[mutator.Below(spec.scores.size())] = kScores[mutator.Below(std::size(kScores))];
    }
    if (mutator.Below(8) == 0) spec.precompiled_charsmap = mutator.Text(40);
    auto tokenizer = MakeTokenizer(std::move(spec));
    if (!tokenizer.ok()) {
      ++refused;
      ASSERT_EQ(tokenizer.status().code(), absl::StatusCode::kInvalidArgument) << tokenizer.status();
      continue;
    }
    ++accepted;
    const TokenizerSpec& made = (*tokenizer)->Spec();
    for (int i = 0; i < 5; ++i) {
      std::string text = mutator.Text(200);
      mutator.Damage(&text);
      const auto ids = (*tokenizer)->Encode(text, false);
      ASSERT_TRUE(ids.ok()) << ids.status();
      std::string bytes;
      for (const int32_t id : *ids) {
        ASSERT_GE(id, 0);
        ASSERT_LT(id, (*tokenizer)->VocabSize());
        bytes += (*tokenizer)->Bytes(id, false);
      }
      if (made.remove_extra_whitespaces || made.add_space_prefix) continue;
      ++compared;
      ASSERT_EQ(bytes, text) << "seed " << seed << " round " << round;
    }
  }
  EXPECT_GT(compared, 2000);
  EXPECT_GT(refused, 300);
  EXPECT_GT(accepted, 300);
}

}  // namespace
}  // namespace moepool
