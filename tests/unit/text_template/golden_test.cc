// Templates whose outcome Jinja2 itself gave (tests/golden/make_jinja.py): the same text, or a failure at the
// same stage. Messages differ; what raise_exception says does not.
#include <fstream>

#include "common/text/chat_template.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::HasSubstr;

const Json& Golden() {
  static const Json* const golden = [] {
    std::ifstream in("tests/golden/jinja_cases.json");
    return new Json(Json::parse(in));
  }();
  return *golden;
}

TEST(ChatTemplateGolden, EveryCaseEndsAsInJinja) {
  const Json& golden = Golden();
  ASSERT_GE(golden["cases"].size(), 700u);
  for (const Json& item : golden["cases"]) {
    const std::string source = item["template"];
    SCOPED_TRACE(source);
    const auto parsed = ChatTemplate::Parse(source);
    if (item.contains("parse_error")) {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
      continue;
    }
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    const auto text = (*parsed)->Render(golden["variables"], absl::FromUnixSeconds(0));
    if (item.contains("error")) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      if (source.find("raise_exception") != std::string::npos) {
        EXPECT_THAT(std::string(text.status().message()), HasSubstr(item["error"].get<std::string>()));
      }
      continue;
    }
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(*text, item["expected"].get<std::string>());
  }
}

TEST(ChatTemplateGolden, ErrorsNameTheLine) {
  const auto parsed = ChatTemplate::Parse("a\n{% if x %}\n{{ x | }}{% endif %}");
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("line 3"));
  const auto good = ChatTemplate::Parse("a\nb\n{{ x.y.z }}");
  ASSERT_TRUE(good.ok()) << good.status();
  const auto text = (*good)->Render({{"x", Json::object()}}, absl::FromUnixSeconds(0));
  EXPECT_EQ(text.status().message(), "chat template line 3: 'dict object' has no attribute 'y'");
}

TEST(ChatTemplateGolden, TimeIsTheCallersAndLocal) {
  const auto parsed = ChatTemplate::Parse("{{ strftime_now('%Y-%m-%d %H') }}|{{ strftime_now('%d %B %Y') }}");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const absl::Time now = absl::FromCivil(absl::CivilSecond(2024, 7, 26, 15, 0, 0), absl::LocalTimeZone());
  const auto text = (*parsed)->Render(Json::object(), now);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "2024-07-26 15|26 July 2024");
}

TEST(ChatTemplateGolden, NamespacesRefuseUnderscores) {
  for (const char* const source : {"{% set n = namespace(_a=1) %}", "{% set n = namespace({'_a': 1}) %}",
                                   "{% set n = namespace() %}{% set n._a = 1 %}"}) {
    SCOPED_TRACE(source);
    const auto parsed = ChatTemplate::Parse(source);
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ((*parsed)->Render(Json::object(), absl::FromUnixSeconds(0)).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplateGolden, ContentIsNeverATemplate) {
  const auto parsed = ChatTemplate::Parse("{% for m in messages %}{{ m.content }}{% endfor %}");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const std::string content = "{{ 7 * 7 }}{% raw %}{# c #}";
  const auto text =
      (*parsed)->Render({{"messages", Json::array({Json{{"content", content}}})}}, absl::FromUnixSeconds(0));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, content);
}

}  // namespace
}  // namespace moepool
