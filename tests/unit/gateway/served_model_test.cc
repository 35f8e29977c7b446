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
  const InferRequest plain = ParseInferRequest(R"({"prompt": "hello"})").value();
  const InferRequest raw = ParseInferRequest(R"({"prompt": "hello", "raw": true})").value();
  EXPECT_TRUE(UsesTemplate(*with, plain));
  EXPECT_FALSE(UsesTemplate(*with, raw));
  EXPECT_FALSE(UsesTemplate(*without, plain));
}

}  // namespace
}  // namespace moepool
