// The torture files against ids and pieces made by the reference (tests/golden/make_tokenizer.py). The
// vocabulary is that of the model which tests/run.sh fetches; MOEPOOL_TEST_MODEL names it where it lies
// elsewhere.
#include <gtest/gtest.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include "common/model/gguf_source.h"
#include "common/text/byte_alphabet.h"
#include "common/text/nfc.h"
#include "common/text/pre_tokenizer.h"
#include "common/text/tokenizer.h"
#include "nlohmann/json.hpp"
#include "tests/support/test_model.h"

namespace moepool {
namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

nlohmann::json Golden() { return nlohmann::json::parse(Read("tests/golden/tokenizer.json")); }
std::string Torture() { return Read("tests/golden/torture.txt"); }
std::string Invalid() { return Read("tests/golden/invalid_utf8.bin"); }

// As lines of "index: id", so that a failure shows where the lists part.
std::string Listed(const std::vector<int32_t>& ids) {
  std::ostringstream out;
  for (size_t i = 0; i < ids.size(); ++i) out << i << ": " << ids[i] << "\n";
  return out.str();
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    const auto source = OpenGguf(TestModelPath());
    ASSERT_TRUE(source.ok())
        << source.status()
        << "\nThis test needs SmolLM2-135M-Instruct.Q4_1.gguf: run tests/run.sh, which fetches it, or "
           "name a copy in MOEPOOL_TEST_MODEL.";
    auto tokenizer = MakeTokenizer((*source)->Tokenizer());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
  }

  std::vector<int32_t> Encode(std::string_view text, bool special) {
    return tokenizer_->Encode(text, special).value();
  }

  std::string Bytes(const std::vector<int32_t>& ids) {
    std::string bytes;
    for (const int32_t id : ids) bytes += tokenizer_->Bytes(id, true);
    return bytes;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SmolLm2, TortureFile) {
  const nlohmann::json golden = Golden();
  for (const bool special : {true, false}) {
    const std::vector<int32_t> ids = Encode(Torture(), special);
    EXPECT_EQ(Listed(ids), Listed(golden[special ? "ids_special" : "ids_plain"]));
  }
}

TEST_F(SmolLm2, InvalidUtf8) {
  const nlohmann::json golden = Golden();
  for (const bool special : {true, false}) {
    const std::vector<int32_t> ids = Encode(Invalid(), special);
    EXPECT_EQ(Listed(ids), Listed(golden[special ? "invalid_ids_special" : "invalid_ids_plain"]));
  }
}

// What the vocabulary has no token for is left out, and nothing else.
TEST_F(SmolLm2, GivesBackAllBytesThatItHasTokensFor) {
  int without = 0;
  std::array<bool, 256> has;
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    has[byte] = !Encode({&c, 1}, false).empty();
    without += has[byte] ? 0 : 1;
  }
  EXPECT_EQ(without, 21);
  for (const std::string& text : {Torture(), Invalid()}) {
    std::string kept;
    for (const char c : text) {
      if (has[static_cast<uint8_t>(c)]) kept.push_back(c);
    }
    for (const bool special : {true, false}) EXPECT_EQ(Bytes(Encode(text, special)), kept);
  }
}

TEST_F(SmolLm2, EndsGeneration) {
  std::vector<int32_t> ends;
  for (int32_t id = 0; id < tokenizer_->VocabSize(); ++id) {
    if (tokenizer_->EndsGeneration(id)) ends.push_back(id);
  }
  EXPECT_EQ(ends, (std::vector<int32_t>{0, 2}));
}

class Pieces : public testing::TestWithParam<const char*> {};

TEST_P(Pieces, TortureFile) {
  const auto pre_tokenizer = PreTokenizer::Make(GetParam());
  ASSERT_TRUE(pre_tokenizer.ok()) << pre_tokenizer.status();
  std::string text = Torture();
  if ((*pre_tokenizer)->composes()) text = ToNfc(text).value();
  std::vector<std::string_view> pieces;
  ASSERT_TRUE((*pre_tokenizer)->Split(text, &pieces).ok());
  std::vector<int32_t> lengths;
  for (const std::string_view piece : pieces) lengths.push_back(static_cast<int32_t>(piece.size()));
  EXPECT_EQ(Listed(lengths), Listed(Golden()["pieces"][GetParam()]));
}

INSTANTIATE_TEST_SUITE_P(Rules, Pieces, testing::Values("smollm", "gpt-2", "llama-bpe", "qwen2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(Replacement, InvalidFileAsPythonReplacesIt) {
  TokenizerSpec spec;
  spec.model = "gpt2";
  spec.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    spec.tokens.push_back(SpellingFromBytes({&c, 1}));
  }
  const auto tokenizer = MakeTokenizer(spec).value();
  Detokenizer detokenizer(tokenizer.get(), false);
  std::string text;
  for (const char byte : Invalid()) text += detokenizer.Push(static_cast<uint8_t>(byte));
  text += detokenizer.Finish();
  EXPECT_EQ(text, Golden()["invalid_replaced"].get<std::string>());
}

}  // namespace
}  // namespace moepool
