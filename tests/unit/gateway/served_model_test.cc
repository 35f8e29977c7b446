#include "gateway/served_model.h"

#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

// What is generated after a prompt goes on with its text where no template stands between the two.
TEST(UsesTemplateTest, WhereThereIsOneAndThePromptIsNotRaw) {
  ModelInfo info = TestModelInfo();
  const auto with = MakeTestModel(info).value();
  info.tokenizer.chat_template.clear();
  const auto without = MakeTestModel(info).value();
  InferRequest request;
  request.input = "hello";
  EXPECT_TRUE(UsesTemplate(*with, request));
  EXPECT_FALSE(UsesTemplate(*without, request));
  request.raw = true;
  EXPECT_FALSE(UsesTemplate(*with, request));
  request.raw = false;
  request.input.emplace<std::vector<int32_t>>(2, 1);
  EXPECT_FALSE(UsesTemplate(*with, request));
  request.input.emplace<std::vector<ChatMessage>>(1, ChatMessage{"user", "hello"});
  EXPECT_TRUE(UsesTemplate(*with, request));
}

}  // namespace
}  // namespace moepool
