// Valid templates with bytes changed, removed, doubled and swapped between them: any outcome but a crash, a
// hang or an undocumented status. Meant for the sanitizers.
#include <fstream>
#include <random>

#include "common/text/chat_template.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint32_t kSeed = 20240726;
constexpr int kMutants = 6000;
constexpr ChatTemplateLimits kLimits = {.output_bytes = 1u << 16, .steps = 20'000, .depth = 40};

TEST(ChatTemplateMutation, MutantsEndWithADocumentedStatus) {
  std::ifstream in("tests/golden/jinja_cases.json");
  const Json golden = Json::parse(in);
  std::vector<std::string> sources;
  for (const Json& item : golden["cases"]) sources.push_back(item["template"]);
  SCOPED_TRACE(::testing::Message() << "seed " << kSeed);
  std::mt19937 random(kSeed);
  auto below = [&](size_t n) { return static_cast<size_t>(random() % std::max<size_t>(n, 1)); };
  int rendered = 0, refused = 0;
  for (int i = 0; i < kMutants; ++i) {
    std::string source = sources[below(sources.size())];
    for (size_t changes = 1 + below(4); changes > 0 && !source.empty(); --changes) {
      const size_t at = below(source.size());
      const size_t length = below(std::min<size_t>(source.size() - at, 12)) + 1;
      switch (below(5)) {
        case 0:
          source[at] = static_cast<char>(random());
          break;
        case 1:
          source.erase(at, length);
          break;
        case 2:
          source.insert(at, source.substr(at, length));
          break;
        case 3:
          source[at] = "{}%#-+()[]|.,:~*'\"\\ \n0"[below(22)];
          break;
        default: {
          const std::string& other = sources[below(sources.size())];
          source.insert(at, other.substr(below(other.size()), 1 + below(40)));
        }
      }
    }
    const auto parsed = ChatTemplate::Parse(source, kLimits);
    if (!parsed.ok()) {
      ++refused;
      ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << source;
      continue;
    }
    const auto text = (*parsed)->Render(golden["variables"], absl::FromUnixSeconds(0));
    if (text.ok()) {
      ++rendered;
      ASSERT_LE(text->size(), kLimits.output_bytes) << source;
    } else {
      ASSERT_TRUE(text.status().code() == absl::StatusCode::kInvalidArgument ||
                  text.status().code() == absl::StatusCode::kResourceExhausted)
          << source << "\n"
          << text.status();
    }
  }
  // The mutants reach both stages.
  EXPECT_GT(rendered, kMutants / 20);
  EXPECT_GT(refused, kMutants / 20);
}

}  // namespace
}  // namespace moepool
