// Chat templates against transformers' apply_chat_template (make_templates.py): the same text for every
// conversation, or a failure of the same kind. SmolLM2's own, from the model file, and our templates with the
// constructs of the published ones; the published ones themselves, which fetch_templates.sh fetches, nightly.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "absl/strings/escaping.h"
#include "common/base/str.h"
#include "common/model/gguf_source.h"
#include "common/model/sha256.h"
#include "common/text/chat_template.h"
#include "tests/support/test_model.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const Json& Golden() {
  static const Json* const golden = [] {
    std::ifstream in("tests/golden/templates.json");
    return new Json(Json::parse(in));
  }();
  return *golden;
}

const Json& Find(std::string_view name) {
  for (const Json& item : Golden()["templates"]) {
    if (item["name"] == name) return item;
  }
  ADD_FAILURE() << "tests/golden/templates.json has no template " << name;
  static const Json* const none = new Json(Json::object());
  return *none;
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string HexSha256(std::string_view text) {
  Sha256 sha256;
  sha256.Update(text);
  const auto digest = sha256.Finish();
  return absl::BytesToHexString({reinterpret_cast<const char*>(digest.data()), digest.size()});
}

absl::Time GoldenNow() {
  const Json& now = Golden()["now"];  // local, as strftime_now is
  return absl::FromCivil(absl::CivilSecond(now[0].get<int>(), now[1].get<int>(), now[2].get<int>(),
                                           now[3].get<int>(), now[4].get<int>(), now[5].get<int>()),
                         absl::LocalTimeZone());
}

// Every conversation through the template `source`; returns the number of texts compared.
int ExpectAsTransformers(const Json& item, const std::string& source) {
  EXPECT_EQ(HexSha256(source), item["sha256"].get<std::string>()) << "of the template " << item["name"];
  const auto parsed = ChatTemplate::Parse(source);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  if (!parsed.ok()) return 0;
  int texts = 0;
  for (size_t i = 0; i < Golden()["conversations"].size(); ++i) {
    const Json& conversation = Golden()["conversations"][i];
    const Json& outcome = item["outcomes"][i];
    SCOPED_TRACE(StrCat(item["name"].get<std::string>(), ", ", conversation["name"].get<std::string>()));
    Json variables = conversation["variables"];
    variables.update(item["tokens"]);
    const auto text = (*parsed)->Render(variables, GoldenNow());
    if (outcome.contains("text")) {
      EXPECT_EQ(text.value_or(text.status().ToString()), outcome["text"].get<std::string>());
      ++texts;
      continue;
    }
    EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
    if (outcome.contains("raises")) {
      EXPECT_THAT(std::string(text.status().message()), HasSubstr(outcome["raises"].get<std::string>()));
    }
  }
  return texts;
}

TEST(TemplatesGolden, SmolLm2FromTheModelFile) {
  const auto source = OpenGguf(TestModelPath());
  ASSERT_TRUE(source.ok()) << source.status() << "; tests/run.sh fetches this model";
  EXPECT_GE(ExpectAsTransformers(Find("smollm2"), (*source)->Tokenizer().chat_template), 17);
}

TEST(TemplatesGolden, OursWithTheConstructsOfThePublished) {
  int texts = 0;
  for (const Json& item : Golden()["templates"]) {
    const std::string file = item.value("file", "");
    if (file.starts_with("tests/")) texts += ExpectAsTransformers(item, ReadText(file));
  }
  EXPECT_GE(texts, 110);
}

// Phi-3.5-MoE's template is written here from its format, which is the published Phi-3.5-mini's.
TEST(TemplatesGolden, PhiMoeWritesWhatItsSiblingWrites) {
  const Json& ours = Find("phi_moe")["outcomes"];
  const Json& sibling = Find("phi-3.5-mini")["outcomes"];
  int texts = 0;
  for (size_t i = 0; i < sibling.size(); ++i) {
    if (!sibling[i].contains("text")) continue;
    // Their token of the end differs in name alone.
    std::string text = sibling[i]["text"];
    if (constexpr std::string_view kEnd = "<|endoftext|>"; text.ends_with(kEnd)) {
      text.replace(text.size() - kEnd.size(), kEnd.size(), "</s>");
    }
    EXPECT_EQ(ours[i].value("text", ""), text) << Golden()["conversations"][i]["name"];
    ++texts;
  }
  EXPECT_GE(texts, 17);
}

TEST(TemplatesGolden, NightlyPublished) {
  const char* const cache = std::getenv("XDG_CACHE_HOME");
  const char* const home = std::getenv("HOME");
  const std::string folder =
      (cache != nullptr && *cache != '\0' ? std::string(cache)
                                          : StrCat(home == nullptr ? "" : home, "/.cache")) +
      "/moepool/templates/";
  int templates = 0;
  int texts = 0;
  for (const Json& item : Golden()["templates"]) {
    if (!item.contains("package")) continue;
    const std::string path = folder + item["name"].get<std::string>() + ".jinja";
    const std::string source = ReadText(path);
    ASSERT_FALSE(source.empty()) << path << " cannot be read: run tests/golden/fetch_templates.sh";
    texts += ExpectAsTransformers(item, source);
    ++templates;
  }
  EXPECT_EQ(templates, 11);
  EXPECT_GE(texts, 160);
}

}  // namespace
}  // namespace moepool
