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

TEST(CheckServedNameTest, TheNameAndTheAliases) {
  ServedModel model;
  model.info.name = "mixtral";
  EXPECT_TRUE(CheckServedName(model, "mixtral").ok());
  const absl::Status unknown = CheckServedName(model, "gpt-4");
  EXPECT_EQ(unknown, absl::NotFoundError("the model 'gpt-4' is not served here, but 'mixtral'"));
  model.aliases = {"gpt-4", "default"};
  for (const char* name : {"mixtral", "gpt-4", "default"}) EXPECT_TRUE(CheckServedName(model, name).ok());
  EXPECT_EQ(CheckServedName(model, "gpt").message(),
            "the model 'gpt' is not served here, but 'mixtral', 'gpt-4', 'default'");
}

}  // namespace
}  // namespace moepool
