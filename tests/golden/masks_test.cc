// Masks under vocabularies in use: an independent reading of the grammar (tests/unit/constrain/oracle.h) says
// of each token whether the text can go on with its bytes, for schemas made at random, along texts made at
// random. The small SentencePiece models are committed, tests/run.sh fetches SmolLM2, and
// tests/golden/fetch_vocabularies.sh the others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/constrain/json_schema.h"
#include "common/constrain/matcher.h"
#include "common/text/tokenizer.h"
#include "tests/support/test_model.h"
#include "tests/unit/constrain/oracle.h"
#include "tests/unit/text/vocabulary_file.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;
using Random = std::mt19937;

constexpr size_t kMaxWays = 60;  // that the oracle can follow in reasonable time

size_t Below(Random* random, size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(*random); }

// Of the forms that clients send.
Json RandomSchema(Random* random, int depth) {
  static const std::vector<Json> kScalars = {
      {{"type", "string"}},
      {{"type", "string"}, {"maxLength", 5}},
      {{"type", "string"}, {"minLength", 2}, {"maxLength", 3}},
      {{"type", "string"}, {"pattern", "^[a-zäö]{2,4}( x+)?$"}},
      {{"type", "string"}, {"format", "date-time"}},
      {{"type", "string"}, {"format", "uuid"}},
      {{"enum", {"red", "reddish", "grün", "\"quoted\"", 7, nullptr}}},
      {{"const", "你好 😀"}},
      {{"type", "integer"}, {"minimum", -20}, {"maximum", 1500}},
      {{"type", "number"}},
      {{"type", {"boolean", "null"}}},
  };
  const size_t kind = Below(random, depth == 0 ? kScalars.size() : kScalars.size() + 8);
  if (kind < kScalars.size()) return kScalars[kind];
  if (kind < kScalars.size() + 2) {
    return {
        {"type", "array"}, {"items", RandomSchema(random, depth - 1)}, {"maxItems", 1 + Below(random, 3)}};
  }
  if (kind < kScalars.size() + 4) {
    return {{"anyOf", {RandomSchema(random, depth - 1), {{"type", "null"}}}}};
  }
  Json schema = {{"type", "object"}, {"properties", Json::object()}, {"required", Json::array()}};
  static const char* const kNames[] = {"name", "na", "größe", "x", "a \"b\""};
  for (const char* name : kNames) {
    if (Below(random, 2) == 0) continue;
    schema["properties"][name] = RandomSchema(random, depth - 1);
    if (Below(random, 2) == 0) schema["required"].push_back(name);
  }
  schema["additionalProperties"] = Below(random, 4) == 0;
  return schema;
}

class MasksTest : public testing::Test {
 protected:
  void Load(const std::string& path) {
    auto spec = ReadVocabulary(path);
    ASSERT_TRUE(spec.ok()) << path << ": " << spec.status();
    auto tokenizer = MakeTokenizer(*std::move(spec));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = *std::move(tokenizer);
    vocabulary_ = Vocabulary::Make(*tokenizer_).value();
    by_bytes_.resize(static_cast<size_t>(vocabulary_->size()));
    std::iota(by_bytes_.begin(), by_bytes_.end(), 0);
    std::sort(by_bytes_.begin(), by_bytes_.end(),
              [this](int32_t a, int32_t b) { return Bytes(a) < Bytes(b); });
  }

  std::string Bytes(int32_t id) const { return tokenizer_->Bytes(id, /*special=*/false); }

  // Whether a mask may lack the token all the same: it has a character, or a part of one, that the vocabulary
  // cannot write in another way.
  bool IsWritable(std::string_view bytes) const {
    while (!bytes.empty()) {
      const Utf8Step step = NextUtf8(bytes);
      if (step.kind != Utf8Kind::kCharacter) return has_all_bytes_;
      if (!vocabulary_->writable().Contains(step.code_point)) return false;
      bytes.remove_prefix(static_cast<size_t>(step.bytes));
    }
    return true;
  }

  // The ids that may come; checks `mask`, and, where it is to be `complete`, that it lacks none.
  std::vector<int32_t> Allowed(Oracle* oracle, const IdBits& mask, bool complete) const {
    std::vector<int32_t> allowed;
    std::string dead = "\xFF";  // nothing goes on with this
    for (const int32_t id : by_bytes_) {
      const std::string bytes = Bytes(id);
      bool expected = !bytes.empty() && !tokenizer_->EndsGeneration(id) && !bytes.starts_with(dead);
      if (expected && !oracle->IsPrefix(bytes)) {
        expected = false;
        size_t end = 1;
        while (end < bytes.size() && oracle->IsPrefix(bytes.substr(0, end))) ++end;
        dead = bytes.substr(0, end);
      }
      if (HasBit(mask, id)) {
        EXPECT_TRUE(expected) << "token " << id << " '" << bytes << "' must not come";
        allowed.push_back(id);
      } else {
        EXPECT_FALSE(complete && expected && IsWritable(bytes))
            << "token " << id << " '" << bytes << "' may come";
      }
      if (HasFailure()) break;
    }
    return allowed;
  }

  void Walk(Random* random, const Json& schema, int steps) const {
    SCOPED_TRACE(schema.dump());
    const auto text = JsonSchemaToGrammar(schema);
    ASSERT_TRUE(text.ok()) << text.status();
    const auto compiled = CompiledGrammar::Make(*text, vocabulary_);
    if (!compiled.ok()) {  // characters that the vocabulary lacks
      ASSERT_FALSE(has_all_bytes_) << compiled.status();
      return;
    }
    // What needs characters that the vocabulary lacks is left out, which the oracle does not know.
    const bool complete = has_all_bytes_ || IsWritable(*text);
    const Grammar grammar = ParseGrammar(*text).value();
    Oracle oracle(&grammar);
    Matcher matcher(*compiled);
    std::string so_far;
    for (int step = 0; step < steps && oracle.ways() < kMaxWays; ++step) {
      SCOPED_TRACE(absl::StrCat("after '", so_far, "'"));
      const auto mask = matcher.Mask();
      ASSERT_TRUE(mask.ok()) << mask.status();
      ASSERT_EQ(matcher.CanEnd(), oracle.IsText());
      const std::vector<int32_t> allowed = Allowed(&oracle, **mask, complete);
      ASSERT_TRUE(!allowed.empty() || matcher.CanEnd()) << "a dead end";
      if (HasFailure() || allowed.empty()) break;
      const int32_t id = allowed[Below(random, allowed.size())];
      so_far += Bytes(id);
      oracle.Push(Bytes(id));
      ASSERT_TRUE(matcher.Accept(id));
    }
    if (matcher.CanEnd()) {
      EXPECT_FALSE(Json::parse(so_far, nullptr, /*allow_exceptions=*/false).is_discarded()) << so_far;
    }
  }

  void WalkMany(uint32_t seeds, int steps) {
    has_all_bytes_ = true;
    std::vector<bool> has(256);
    for (int32_t id = 0; id < vocabulary_->size(); ++id) {
      if (vocabulary_->bytes(id).size() == 1) has[static_cast<uint8_t>(vocabulary_->bytes(id)[0])] = true;
    }
    for (int byte = 0x80; byte < 0xC0; ++byte)
      has_all_bytes_ = has_all_bytes_ && has[static_cast<size_t>(byte)];
    for (uint32_t seed = 0; seed < seeds && !HasFailure(); ++seed) {
      SCOPED_TRACE(absl::StrCat("seed ", seed));
      Random random(seed);
      const Json schema = RandomSchema(&random, 3);
      Walk(&random, schema, steps);
    }
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<int32_t> by_bytes_;
  bool has_all_bytes_ = false;
};

std::string Cache() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::string(cache) + "/moepool/";
  }
  const char* home = std::getenv("HOME");
  return std::string(home == nullptr ? "" : home) + "/.cache/moepool/";
}

TEST_F(MasksTest, OfSentencePieceUnigram) {
  Load("tests/golden/sentencepiece/unigram.gguf");
  WalkMany(150, 12);
}

TEST_F(MasksTest, OfSentencePieceBpe) {
  Load("tests/golden/sentencepiece/bpe.gguf");
  WalkMany(150, 12);
}

TEST_F(MasksTest, OfSmolLm2) {
  Load(TestModelPath());
  WalkMany(6, 6);
}

TEST_F(MasksTest, NightlyOfVocabulariesInUse) {
  const char* const named = std::getenv("MOEPOOL_VOCABULARIES");
  const std::string folder = named != nullptr ? named : Cache() + "vocabularies";
  int count = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".gguf") continue;
    SCOPED_TRACE(entry.path().string());
    ++count;
    Load(entry.path().string());
    WalkMany(10, 8);
    if (HasFailure()) return;
  }
  EXPECT_GE(count, 10) << "run tests/golden/fetch_vocabularies.sh";
}

}  // namespace
}  // namespace moepool
