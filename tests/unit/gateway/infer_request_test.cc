#include "gateway/infer_request.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

TEST(InferRequestTest, LongKeysAreCutInMessages) {
  const std::string key(1 << 20, 'k');
  for (const std::string& body :
       {R"({"prompt": "x", ")" + key + R"(": 1})", R"({"messages": [{")" + key + R"(": 1}]})"}) {
    const absl::Status status = ParseInferRequest(body).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_LT(status.message().size(), 200u);
  }
}

TEST(InferRequestTest, Defaults) {
  const auto request = ParseInferRequest(R"({"prompt": "hi"})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(std::get<std::string>(request->input), "hi");
  EXPECT_EQ(request->max_tokens, 256);
  EXPECT_EQ(request->sampling.temperature, 0);
  EXPECT_EQ(request->sampling.top_p, 1);
  EXPECT_EQ(request->sampling.repetition_penalty, 1);
  EXPECT_FALSE(request->seed.has_value());
  EXPECT_FALSE(request->stream);
  EXPECT_FALSE(request->raw);
  EXPECT_TRUE(request->stop.empty());
}

TEST(InferRequestTest, AllFields) {
  const auto request =
      ParseInferRequest(R"({"messages": [{"role": "user", "content": "é"}], "stream": true, "max_tokens": 7,
      "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 18446744073709551615, "stop": ["a", "b"],
      "presence_penalty": -2, "frequency_penalty": 2, "repetition_penalty": 1.1, "raw": null})");
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& messages = std::get<std::vector<ChatMessage>>(request->input);
  ASSERT_EQ(messages.size(), 1u);
  EXPECT_EQ(messages[0].content, "é");
  EXPECT_EQ(request->seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(request->sampling.top_k, 40);
  EXPECT_EQ(request->sampling.min_p, 0.05);
  EXPECT_EQ(request->sampling.frequency_penalty, 2);
  EXPECT_THAT(request->stop, testing::ElementsAre("a", "b"));
}

TEST(InferRequestTest, SamplingFields) {
  const auto request =
      ParseInferRequest(R"({"prompt": "", "logit_bias": {"257": -100, "0": 1.5, "31": 100}, "logprobs": true,
      "top_logprobs": 20, "min_tokens": 7, "max_tokens": 7, "ignore_eos": true, "n": 16, "repeat_last_n": 0,
      "dry_multiplier": 0.8, "dry_base": 1, "dry_allowed_length": 0, "dry_penalty_last_n": -1,
      "dry_sequence_breakers": ["\n", "é"]})");
  ASSERT_TRUE(request.ok()) << request.status();
  const SamplingParams& sampling = request->sampling;
  ASSERT_EQ(sampling.logit_bias.size(), 3u);
  EXPECT_EQ(sampling.logit_bias[0].id, 0);
  EXPECT_EQ(sampling.logit_bias[0].bias, 1.5);
  EXPECT_EQ(sampling.logit_bias[1].id, 31);
  EXPECT_EQ(sampling.logit_bias[2].id, 257);
  EXPECT_EQ(sampling.logit_bias[2].bias, -100);
  EXPECT_TRUE(sampling.logprobs);
  EXPECT_EQ(sampling.top_logprobs, 20);
  EXPECT_EQ(sampling.min_tokens, 7);
  EXPECT_TRUE(request->ignore_eos);
  EXPECT_EQ(request->n, 16);
  EXPECT_EQ(sampling.repeat_last_n, 0);
  EXPECT_EQ(sampling.dry.multiplier, 0.8);
  EXPECT_EQ(sampling.dry.base, 1);
  EXPECT_EQ(sampling.dry.allowed_length, 0);
  EXPECT_EQ(sampling.dry.penalty_last_n, -1);
  EXPECT_THAT(request->dry_sequence_breakers, testing::ElementsAre("\n", "é"));
}

TEST(InferRequestTest, SamplingDefaults) {
  const auto request = ParseInferRequest(R"({"prompt": "", "repeat_last_n": null})");
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->n, 1);
  EXPECT_FALSE(request->ignore_eos);
  EXPECT_FALSE(request->sampling.logprobs);
  EXPECT_FALSE(request->sampling.repeat_last_n.has_value());
  EXPECT_EQ(request->sampling.dry.multiplier, 0);
  EXPECT_EQ(request->sampling.dry.base, 1.75);
  EXPECT_EQ(request->sampling.dry.allowed_length, 2);
  EXPECT_EQ(request->sampling.dry.penalty_last_n, 64);
  EXPECT_THAT(request->dry_sequence_breakers, testing::ElementsAre("\n", ":", "\"", "*"));
  EXPECT_TRUE(
      ParseInferRequest(R"({"prompt": "", "dry_sequence_breakers": []})")->dry_sequence_breakers.empty());
}

TEST(InferRequestTest, TooManyLogitBiases) {
  std::string body = R"({"prompt": "", "logit_bias": {"0": 0)";
  for (int id = 1; id < 1025; ++id) body += ",\"" + std::to_string(id) + "\": 0";
  const absl::Status status = ParseInferRequest(body + "}}").status();
  EXPECT_EQ(FieldOf(status), "logit_bias");
  EXPECT_THAT(std::string(status.message()), HasSubstr("1025 entries, more than 1024"));
}

TEST(InferRequestTest, OneStopString) {
  EXPECT_THAT(ParseInferRequest(R"({"prompt": "", "stop": "x"})")->stop, testing::ElementsAre("x"));
}

struct BadCase {
  const char* body;
  const char* field;    // FieldOf
  const char* message;  // part of it
};

class BadInferRequestTest : public testing::TestWithParam<BadCase> {};

TEST_P(BadInferRequestTest, IsRefused) {
  const auto request = ParseInferRequest(GetParam().body);
  ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << GetParam().body;
  EXPECT_EQ(FieldOf(request.status()), GetParam().field) << request.status();
  EXPECT_THAT(std::string(request.status().message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Bodies, BadInferRequestTest,
    testing::Values(
        BadCase{"", "", "not valid JSON"}, BadCase{"{", "", "not valid JSON"},
        BadCase{"[]", "", "array, not an object"},
        BadCase{"{\"prompt\": \"\xff\"}", "", "not valid UTF-8, at byte 13"},
        BadCase{R"({"prompt": "\ud800"})", "", "not valid JSON"},
        BadCase{R"({"prompt": NaN})", "", "not valid JSON"},
        BadCase{R"({"prompt": "a"} x)", "", "not valid JSON"},
        BadCase{R"({"prompt": "a", "top_p": 1e999})", "", "out of range"},
        BadCase{R"({"prompt": "a", "colour": 1})", "colour", "not a known field"},
        BadCase{R"({})", "prompt", "missing"}, BadCase{R"({"prompt": null})", "prompt", "missing"},
        BadCase{R"({"prompt": 5})", "prompt", "5, not a string"},
        BadCase{R"({"prompt": "a", "messages": [{"role": "user", "content": "b"}]})", "messages", "both"},
        BadCase{R"({"messages": []})", "messages", "empty"},
        BadCase{R"({"messages": {}})", "messages", "object, not a list"},
        BadCase{R"({"messages": ["a"]})", "messages[0]", "string, not an object"},
        BadCase{R"({"messages": [{"role": "user"}]})", "messages[0].content", "missing"},
        BadCase{R"({"messages": [{"role": "user", "content": 1}]})", "messages[0].content", "not a string"},
        BadCase{R"({"messages": [{"role": "user", "content": "", "x": 1}]})", "messages[0].x",
                "not a known field"},
        BadCase{R"({"messages": [{"role": "user", "content": ""}], "raw": true})", "raw",
                "not with messages"},
        BadCase{R"({"prompt": "a", "raw": 1})", "raw", "1, not a boolean"},
        BadCase{R"({"prompt": "a", "stream": "yes"})", "stream", "string, not a boolean"},
        BadCase{R"({"prompt": "a", "max_tokens": 0})", "max_tokens", "0, less than 1"},
        BadCase{R"({"prompt": "a", "max_tokens": -1})", "max_tokens", "-1"},
        BadCase{R"({"prompt": "a", "max_tokens": 1.5})", "max_tokens", "1.5, not an integer"},
        BadCase{R"({"prompt": "a", "max_tokens": 2147483648})", "max_tokens", "2147483648, not in"},
        BadCase{R"({"prompt": "a", "max_tokens": 18446744073709551615})", "max_tokens", "not in"},
        BadCase{R"({"prompt": "a", "temperature": -0.1})", "temperature", "-0.1, not in"},
        BadCase{R"({"prompt": "a", "temperature": "hot"})", "temperature", "not a number"},
        BadCase{R"({"prompt": "a", "top_p": 0})", "top_p", "0, not in (0, 1]"},
        BadCase{R"({"prompt": "a", "top_k": -1})", "top_k", "-1"},
        BadCase{R"({"prompt": "a", "min_p": 1.1})", "min_p", "1.1"},
        BadCase{R"({"prompt": "a", "presence_penalty": 2.5})", "presence_penalty", "2.5"},
        BadCase{R"({"prompt": "a", "frequency_penalty": -3})", "frequency_penalty", "-3"},
        BadCase{R"({"prompt": "a", "repetition_penalty": 0})", "repetition_penalty", "(0, 10]"},
        BadCase{R"({"prompt": "a", "n": 0})", "n", "0, not in [1, 16]"},
        BadCase{R"({"prompt": "a", "n": 17})", "n", "17, not in [1, 16]"},
        BadCase{R"({"prompt": "a", "ignore_eos": 1})", "ignore_eos", "1, not a boolean"},
        BadCase{R"({"prompt": "a", "min_tokens": -1})", "min_tokens", "-1, less than 0"},
        BadCase{R"({"prompt": "a", "min_tokens": 5, "max_tokens": 4})", "min_tokens",
                "5, more than max_tokens, which is 4"},
        BadCase{R"({"prompt": "a", "logprobs": 5})", "logprobs", "5, not a boolean"},
        BadCase{R"({"prompt": "a", "logprobs": true, "top_logprobs": 21})", "top_logprobs",
                "21, not in [0, 20]"},
        BadCase{R"({"prompt": "a", "top_logprobs": 2})", "top_logprobs", "2, which needs logprobs"},
        BadCase{R"({"prompt": "a", "logit_bias": [1]})", "logit_bias", "array, not an object"},
        BadCase{R"({"prompt": "a", "logit_bias": {"5": 100.5}})", "logit_bias[5]",
                "100.5, not in [-100, 100]"},
        BadCase{R"({"prompt": "a", "logit_bias": {"5": "1"}})", "logit_bias[5]", "string, not a number"},
        BadCase{R"({"prompt": "a", "logit_bias": {"5": null}})", "logit_bias[5]", "null, not a number"},
        BadCase{R"({"prompt": "a", "logit_bias": {"05": 1}})", "logit_bias[05]", "no token id"},
        BadCase{R"({"prompt": "a", "logit_bias": {" 5": 1}})", "logit_bias[ 5]", "no token id"},
        BadCase{R"({"prompt": "a", "logit_bias": {"4294967301": 1}})", "logit_bias[4294967301]",
                "no token id"},
        BadCase{R"({"prompt": "a", "logit_bias": {"5": 1, "5": 1}})", "logit_bias.5", "given twice"},
        BadCase{R"({"prompt": "a", "top_k": 1, "top_k": 2})", "top_k", "given twice"},
        BadCase{R"({"prompt": "a", "repeat_last_n": -2})", "repeat_last_n", "-2, less than -1"},
        BadCase{R"({"prompt": "a", "dry_multiplier": -1})", "dry_multiplier", "-1, not in [0, 100]"},
        BadCase{R"({"prompt": "a", "dry_base": 0})", "dry_base", "0, not in [1, 100]"},
        BadCase{R"({"prompt": "a", "dry_allowed_length": -1})", "dry_allowed_length", "-1, less than 0"},
        BadCase{R"({"prompt": "a", "dry_penalty_last_n": -2})", "dry_penalty_last_n", "-2, less than -1"},
        BadCase{R"({"prompt": "a", "dry_sequence_breakers": [""]})", "dry_sequence_breakers[0]",
                "0 bytes, not 1 to 40"},
        BadCase{R"({"prompt": "a", "dry_sequence_breakers": {}})", "dry_sequence_breakers",
                "object, not a string"},
        BadCase{R"({"prompt": "a", "seed": -1})", "seed", "-1"},
        BadCase{R"({"prompt": "a", "seed": 18446744073709551616})", "seed", "not an integer"},
        BadCase{R"({"prompt": "a", "stop": 1})", "stop", "1, not a string"},
        BadCase{R"({"prompt": "a", "stop": [""]})", "stop[0]", "0 bytes"},
        BadCase{R"({"prompt": "a", "stop": ["a", 1]})", "stop[1]", "not a string"},
        BadCase{R"({"prompt": "a", "stop": ["","","","","","","","","","","","","","","","",""]})", "stop",
                "17 strings, more than 16"}));

TEST(InferRequestTest, ToolsGoWithWhatTheTemplateWrites) {
  const std::string tools = R"("tools": [{"type": "function", "function": {"name": "clock"}}])";
  EXPECT_TRUE(ParseInferRequest("{\"prompt\": \"a\", " + tools + "}").ok());
  for (const char* input : {R"("prompt": "a", "raw": true, )", R"("token_ids": [1], )"}) {
    const auto request = ParseInferRequest("{" + std::string(input) + tools + "}");
    ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument) << input;
    EXPECT_EQ(FieldOf(request.status()), "tools") << request.status();
  }
}

TEST(InferRequestTest, NanIsOutOfEveryRange) {
  InferRequest request;
  request.input = "a";
  for (double SamplingParams::*field :
       {&SamplingParams::temperature, &SamplingParams::top_p, &SamplingParams::min_p,
        &SamplingParams::presence_penalty, &SamplingParams::frequency_penalty,
        &SamplingParams::repetition_penalty}) {
    request.sampling = {};
    request.sampling.*field = std::numeric_limits<double>::quiet_NaN();
    const absl::Status status = ValidateInferRequest(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("nan"));
    EXPECT_NE(FieldOf(status), "");
  }
}

TEST(InferRequestTest, DepthAndSizeAreBounded) {
  EXPECT_TRUE(ParseJson(std::string(32, '[') + std::string(32, ']')).ok());
  EXPECT_THAT(std::string(ParseJson(std::string(1'000'000, '[')).status().message()),
              HasSubstr("deeper than 32"));
  std::string wide = "[1";
  for (int i = 0; i < 100'000; ++i) wide += ",1";
  EXPECT_THAT(std::string(ParseJson(wide + "]").status().message()), HasSubstr("more than 100000 values"));
  // Brackets and commas within a string are text.
  EXPECT_TRUE(ParseJson("[\"\\\"" + std::string(200'000, '[') + std::string(200'000, ',') + "\"]").ok());
}

TEST(InferRequestTest, ErrorsDoNotQuoteThePrompt) {
  const auto request = ParseInferRequest(R"({"prompt": "secret", "max_tokens": "secret"})");
  EXPECT_THAT(std::string(request.status().message()), testing::Not(HasSubstr("secret")));
  EXPECT_THAT(std::string(ParseJson("{\"secret\": \"secret").status().message()),
              testing::Not(HasSubstr("secret")));
}

}  // namespace
}  // namespace moepool
