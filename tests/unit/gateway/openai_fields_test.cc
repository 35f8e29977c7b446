#include "gateway/openai/openai_fields.h"

#include <limits>
#include <optional>
#include <utility>

#include "gateway/openai/chat_request.h"
#include "gateway/openai/completions_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::Optional;

// What both of OpenAI's endpoints read of the same fields.
class OpenAiFieldsTest : public testing::TestWithParam<bool> {
 protected:
  static absl::StatusOr<InferRequest> Parse(json fields) {
    if (GetParam()) {
      fields["messages"] = {{{"role", "user"}, {"content", "hi"}}};
      absl::StatusOr<ChatRequest> parsed = ParseChatRequest(fields.dump());
      if (!parsed.ok()) return parsed.status();
      return std::move(parsed->infer);
    }
    fields["prompt"] = "hi";
    absl::StatusOr<CompletionsRequest> parsed = ParseCompletionsRequest(fields.dump());
    if (!parsed.ok()) return parsed.status();
    return std::move(parsed->infer);
  }
};

TEST_P(OpenAiFieldsTest, SeedsAreSignedAndMinusOneIsNone) {
  EXPECT_EQ(Parse({{"seed", -1}})->seed, std::nullopt);
  EXPECT_THAT(Parse({{"seed", 0}})->seed, Optional(0u));
  EXPECT_THAT(Parse({{"seed", -2}})->seed, Optional(std::numeric_limits<uint64_t>::max() - 1));
  EXPECT_THAT(Parse({{"seed", std::numeric_limits<int64_t>::min()}})->seed, Optional(uint64_t{1} << 63));
  EXPECT_THAT(Parse({{"seed", std::numeric_limits<uint64_t>::max()}})->seed,
              Optional(std::numeric_limits<uint64_t>::max()));
  EXPECT_EQ(FieldOf(Parse({{"seed", 1.5}}).status()), "seed");
  EXPECT_EQ(FieldOf(Parse({{"seed", -1e19}}).status()), "seed");
}

TEST_P(OpenAiFieldsTest, TopKMinusOneIsOff) {
  EXPECT_EQ(Parse({{"top_k", -1}})->sampling.top_k, 0);
  EXPECT_EQ(Parse({{"top_k", 3}})->sampling.top_k, 3);
  EXPECT_EQ(FieldOf(Parse({{"top_k", -2}}).status()), "top_k");
}

TEST_P(OpenAiFieldsTest, EmptyStopsAreNone) {
  EXPECT_THAT(Parse({{"stop", ""}})->stop, ElementsAre());
  EXPECT_THAT(Parse({{"stop", {"", "a", "", "b"}}})->stop, ElementsAre("a", "b"));
  EXPECT_EQ(FieldOf(Parse({{"stop", {"", 1}}}).status()), "stop[1]");
}

INSTANTIATE_TEST_SUITE_P(Endpoints, OpenAiFieldsTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "Chat" : "Completions"; });

}  // namespace
}  // namespace moepool
