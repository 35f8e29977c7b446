// Vocabularies of models in use against the ids of the references (tests/golden/make_vocabularies.py), and
// every text given back. The vocabularies are not committed: tests/golden/fetch_vocabularies.sh brings them.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "common/model/sha256.h"
#include "common/text/nfc.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/unit/text/vocabulary_file.h"

namespace moepool {
namespace {

constexpr char kFetch[] =
    "run tests/golden/fetch_vocabularies.sh, or name its folder in MOEPOOL_VOCABULARIES";

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

nlohmann::json Golden() {
  return nlohmann::json::parse(Read("tests/golden/vocabularies.json"))["vocabularies"];
}

std::string Folder() {
  if (const char* folder = std::getenv("MOEPOOL_VOCABULARIES")) return folder;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::string(cache) + "/moepool/vocabularies";
  }
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) + "/.cache/moepool/vocabularies";
}

std::vector<std::string> Names() {
  std::vector<std::string> names;
  for (const auto& item : Golden().items()) names.push_back(item.key());
  return names;
}

class NightlyVocabulary : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    golden_ = Golden()[GetParam()];
    auto spec = ReadVocabulary(Folder() + "/" + GetParam() + ".gguf");
    ASSERT_TRUE(spec.ok()) << spec.status() << "\n" << kFetch;
    auto tokenizer = MakeTokenizer(*std::move(spec));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    lines_ = absl::StrSplit(Read("tests/golden/torture.txt"), '\n');
  }

  std::vector<int32_t> Encode(std::string_view text) { return tokenizer_->Encode(text, false).value(); }

  // As decoding has it, before what is not UTF-8 is replaced.
  std::string Bytes(const std::vector<int32_t>& ids) {
    std::string bytes;
    for (const int32_t id : ids) bytes += tokenizer_->Bytes(id, false);
    if (tokenizer_->DropsFirstSpace() && bytes.starts_with(' ')) bytes.erase(0, 1);
    return bytes;
  }

  nlohmann::json golden_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<std::string> lines_;
};

TEST_P(NightlyVocabulary, IdsAreTheReferences) {
  ASSERT_EQ(lines_.size(), golden_["lines"].size());
  for (size_t i = 0; i < lines_.size(); ++i) {
    EXPECT_EQ(nlohmann::json(Encode(lines_[i])), golden_["lines"][i]) << i << ": " << lines_[i];
  }
  const std::vector<int32_t> ids = Encode(Read("tests/golden/opticks.txt"));
  EXPECT_EQ(ids.size(), golden_["opticks"]["count"]);
  Sha256 hash;
  hash.Update(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t));
  std::string hex;
  for (const uint8_t byte : hash.Finish()) absl::StrAppendFormat(&hex, "%02x", byte);
  EXPECT_EQ(hex, golden_["opticks"]["sha256"]);
}

// Texts of llama.cpp's, with what the published tokenizers make of them.
TEST_P(NightlyVocabulary, IdsOfLlamaCppsCases) {
  if (!golden_["cases"]) return;
  for (const auto& item : nlohmann::json::parse(Read(Folder() + "/" + GetParam() + ".cases.json"))) {
    EXPECT_EQ(nlohmann::json(Encode(item["text"].get<std::string>())), item["ids"]) << item["text"];
  }
}

TEST_P(NightlyVocabulary, GivesTextBack) {
  const TokenizerSpec& spec = tokenizer_->Spec();
  if (!spec.precompiled_charsmap.empty()) return;  // normalised text is another text
  // StarCoder's vocabularies, for one, lack some bytes; those are left out.
  std::array<bool, 256> has;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    has[byte] = !Encode({&c, 1}).empty();
  }
  std::vector<std::string> texts = lines_;
  texts.push_back(Read("tests/golden/opticks.txt"));
  for (std::string text : texts) {
    const std::string decoded = Bytes(Encode(text));
    if (spec.model == "gpt2") {
      if (PreTokenizer::Make(spec.pre).value()->composes()) text = ToNfc(text).value();
    } else {
      text = absl::StrReplaceAll(text, {{"\u2581", " "}});  // how a space is spelled
    }
    std::erase_if(text, [&](char c) { return !has[static_cast<uint8_t>(c)]; });
    EXPECT_EQ(decoded, text);
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, NightlyVocabulary, testing::ValuesIn(Names()), [](const auto& info) {
  return absl::StrReplaceAll(info.param, {{"-", "_"}, {".", "_"}});
});

}  // namespace
}  // namespace moepool
