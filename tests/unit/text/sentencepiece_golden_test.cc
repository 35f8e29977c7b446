// Two small vocabularies against what SentencePiece makes of texts (tests/golden/make_sentencepiece.py).
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/unit/text/vocabulary_file.h"

namespace moepool {
namespace {

constexpr char kFolder[] = "tests/golden/";

std::string Read(const std::string& name) {
  std::ifstream file(kFolder + name, std::ios::binary);
  EXPECT_TRUE(file.good()) << kFolder << name << " cannot be read";
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  Detokenizer detokenizer(&tokenizer, false);
  std::string text;
  for (const int32_t id : ids) text += detokenizer.Push(id);
  return text + detokenizer.Finish();
}

class SentencePieceGolden : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto spec = ReadVocabulary(std::string(kFolder) + "sentencepiece/" + GetParam() + ".gguf");
    ASSERT_TRUE(spec.ok()) << spec.status();
    auto tokenizer = MakeTokenizer(*std::move(spec));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    golden_ = nlohmann::json::parse(Read("sentencepiece/golden.json"));
    strings_ = golden_["strings"].get<std::vector<std::string>>();
    lines_ = absl::StrSplit(Read("torture.txt"), '\n');
    golden_ = golden_[GetParam()];
    has_byte_tokens_ = tokenizer_->Spec().model == "llama";
  }

  std::vector<int32_t> Encode(std::string_view text) { return tokenizer_->Encode(text, false).value(); }

  void ExpectIds(const std::vector<std::string>& texts, const nlohmann::json& ids) {
    ASSERT_EQ(texts.size(), ids.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      EXPECT_EQ(nlohmann::json(Encode(texts[i])), ids[i]) << i << ": \"" << texts[i] << "\"";
    }
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json golden_;
  std::vector<std::string> strings_;
  std::vector<std::string> lines_;
  bool has_byte_tokens_ = false;
};

TEST_P(SentencePieceGolden, RandomStrings) { ExpectIds(strings_, golden_["strings"]); }
TEST_P(SentencePieceGolden, TortureFile) { ExpectIds(lines_, golden_["lines"]); }

TEST_P(SentencePieceGolden, Pieces) {
  for (size_t i = 0; i < golden_["pieces"].size(); ++i) {
    std::vector<std::string> pieces;
    for (const int32_t id : Encode(strings_[i])) pieces.push_back(tokenizer_->Spec().tokens[id]);
    // The reference shows what an unknown token stands for.
    if (has_byte_tokens_) {
      EXPECT_EQ(nlohmann::json(pieces), golden_["pieces"][i]) << i;
    }
    EXPECT_EQ(pieces.size(), golden_["pieces"][i].size()) << i;
  }
}

TEST_P(SentencePieceGolden, DecodesAsTheReference) {
  for (size_t i = 0; i < golden_["decoded"].size(); ++i) {
    // The reference puts this for an unknown token; here it is a control token, which is not shown.
    const std::string expected =
        absl::StrReplaceAll(golden_["decoded"][i].get<std::string>(), {{" \u2047 ", ""}});
    EXPECT_EQ(Decode(*tokenizer_, Encode(lines_[i])), expected) << i;
  }
}

TEST_P(SentencePieceGolden, GivesBackEveryByteWhereItHasByteTokens) {
  if (!has_byte_tokens_) {
    EXPECT_EQ(nlohmann::json(Encode(Read("invalid_utf8.bin"))), golden_["invalid"]);
    return;
  }
  std::vector<std::string> texts = strings_;
  texts.insert(texts.end(), lines_.begin(), lines_.end());
  texts.push_back(Read("torture.txt"));
  texts.push_back(Read("opticks.txt"));
  texts.push_back(Read("invalid_utf8.bin"));
  for (const std::string& text : texts) {
    std::string bytes;
    for (const int32_t id : Encode(text)) bytes += tokenizer_->Bytes(id, false);
    // U+2581 is how a space is spelled.
    EXPECT_EQ(bytes, text.empty() ? "" : " " + absl::StrReplaceAll(text, {{"\u2581", " "}}));
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, SentencePieceGolden, testing::Values("bpe", "unigram"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace moepool
