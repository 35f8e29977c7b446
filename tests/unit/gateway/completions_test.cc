#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr char kPath[] = "/v1/completions";

// Answers as an engine that gives each id of the prompt but the first a log-probability, in two updates, and
// then generates `text`.
std::vector<SequenceUpdate> Score(const SequenceRequest& request, std::string_view text) {
  std::vector<SequenceUpdate> updates(2);
  for (size_t i = 1; i < request.prompt.size(); ++i) {
    updates[i < 2 ? 0 : 1].prompt_logprobs.push_back(
        {-static_cast<float>(i), {{request.prompt[i], -static_cast<float>(i)}, {'!', -9.f}}});
  }
  if (request.max_tokens > 0) {
    SequenceUpdate generated = IdsUpdate(text);
    for (const int32_t id : generated.ids) generated.logprobs.push_back({-0.25f, {{id, -0.25f}}});
    updates.push_back(generated);
  }
  updates.push_back(LastUpdate(FinishReason::kLength));
  return updates;
}

TEST(CompletionsTest, Answer) {
  HttpGateway gateway;
  gateway.Answer({"he", "llo"});
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", kPath, R"({"prompt": "hi", "model": "test-model"})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json body = response.Json();
  EXPECT_THAT(body["id"].get<std::string>(), testing::StartsWith("cmpl-"));
  EXPECT_EQ(body["object"], "text_completion");
  EXPECT_EQ(body["choices"][0]["text"], "hello");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  EXPECT_EQ(body["usage"]["total_tokens"], 8);
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_THAT(request.prompt, ElementsAre(kBos, 'h', 'i'));  // without the template
  EXPECT_EQ(request.max_tokens, 16);
}

TEST(CompletionsTest, PromptsOfEveryForm) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest& request) {
    SequenceUpdate update;
    update.ids = {request.prompt.back()};
    return std::vector<SequenceUpdate>{update, LastUpdate(FinishReason::kStop)};
  });
  HttpClient client(gateway.port());
  const auto texts = [&](const std::string& fields) {
    const json body = client.Call("POST", kPath, "{" + fields + "}").Json();
    std::vector<std::string> found;
    for (const json& choice : body["choices"]) {
      EXPECT_EQ(choice["index"], found.size());
      found.push_back(choice["text"]);
    }
    return found;
  };
  EXPECT_THAT(texts(R"("prompt": ["a", "b"], "n": 2)"), ElementsAre("a", "a", "b", "b"));
  EXPECT_THAT(texts(R"("prompt": [97, 98])"), ElementsAre("b"));
  EXPECT_THAT(texts(R"("prompt": [[97], [98, 99]])"), ElementsAre("a", "c"));
}

TEST(CompletionsTest, UsageOfSeveralPromptsIsTheirSum) {
  HttpGateway gateway;
  gateway.Answer({"xy"});
  HttpClient client(gateway.port());
  const json usage = client.Call("POST", kPath, R"({"prompt": ["a", "bc"]})").Json()["usage"];
  EXPECT_EQ(usage["prompt_tokens"], 5);
  EXPECT_EQ(usage["completion_tokens"], 4);
}

TEST(CompletionsTest, EchoWithLogprobs) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest& request) { return Score(request, "!"); });
  HttpClient client(gateway.port());
  const std::string fields = R"("prompt": "h\u00e9", "max_tokens": 1, "echo": true, "logprobs": 2)";
  const json choice = client.Call("POST", kPath, "{" + fields + "}").Json()["choices"][0];
  EXPECT_EQ(choice["text"], "hé!");
  const json& logprobs = choice["logprobs"];
  EXPECT_EQ(logprobs["tokens"], json({"<s>", "h", "bytes:\\xc3", "bytes:\\xa9", "!"}));
  EXPECT_EQ(logprobs["token_logprobs"], json({nullptr, -1.0, -2.0, -3.0, -0.25}));
  EXPECT_TRUE(logprobs["top_logprobs"][0].is_null());
  EXPECT_EQ(logprobs["top_logprobs"][1], json({{"h", -1.0}, {"!", -9.0}}));
  EXPECT_EQ(logprobs["text_offset"], json({0, 3, 4, 5, 5}));
  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  EXPECT_TRUE(request.prompt_logprobs);
  EXPECT_EQ(request.sampling.top_logprobs, 2);
  EXPECT_THAT(request.stop_ids, testing::IsEmpty());  // the one token that is asked for comes in any case

  // Streamed, the pieces add up to the same.
  std::string text;
  json tokens = json::array();
  for (const std::string& line :
       DataLines(client.Call("POST", kPath, "{" + fields + R"(, "stream": true})").body)) {
    if (line == "[DONE]") continue;
    const json piece = json::parse(line)["choices"][0];
    text += piece["text"];
    if (piece["logprobs"].is_null()) continue;
    for (const json& token : piece["logprobs"]["tokens"]) tokens.push_back(token);
  }
  EXPECT_EQ(text, "hé!");
  EXPECT_EQ(tokens, logprobs["tokens"]);
}

TEST(CompletionsTest, NothingButThePrompt) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest& request) { return Score(request, ""); });
  HttpClient client(gateway.port());
  const json scored =
      client.Call("POST", kPath, R"({"prompt": "ab", "max_tokens": 0, "echo": true, "logprobs": 0})").Json();
  EXPECT_EQ(scored["choices"][0]["text"], "ab");
  EXPECT_EQ(scored["choices"][0]["logprobs"]["tokens"].size(), 3u);
  EXPECT_EQ(scored["choices"][0]["finish_reason"], "length");
  const json echoed =
      client.Call("POST", kPath, R"({"prompt": "ab", "max_tokens": 0, "echo": true, "n": 2})").Json();
  EXPECT_EQ(echoed["choices"][1]["text"], "ab");
  EXPECT_EQ(echoed["usage"]["prompt_tokens"], 3);
  EXPECT_EQ(gateway.trunk.calls(), 1u);  // no router is asked for an echo
}

TEST(CompletionsTest, Stream) {
  HttpGateway gateway;
  gateway.Answer({"he", "llo"}, FinishReason::kLength);
  HttpClient client(gateway.port());
  const auto response = client.Call(
      "POST", kPath, R"({"prompt": "hi", "stream": true, "stream_options": {"include_usage": true}})");
  const std::vector<std::string> lines = DataLines(response.body);
  ASSERT_EQ(lines.size(), 5u) << response.body;
  EXPECT_EQ(json::parse(lines[0])["choices"][0]["text"], "he");
  EXPECT_EQ(json::parse(lines[1])["choices"][0]["text"], "llo");
  EXPECT_EQ(json::parse(lines[2])["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(json::parse(lines[2])["choices"][0]["text"], "");
  EXPECT_EQ(json::parse(lines[3])["choices"], json::array());
  EXPECT_EQ(json::parse(lines[3])["usage"]["completion_tokens"], 5);
  EXPECT_EQ(lines[4], "[DONE]");
}

TEST(CompletionsTest, OneFailureEndsAllPrompts) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", kPath, R"({"prompt": ["a", "b"]})");
  const auto first = gateway.trunk.WaitCall(0);
  const auto second = gateway.trunk.WaitCall(1);
  second->Fail(absl::ResourceExhaustedError("the queue is full"));
  EXPECT_EQ(client.Read().status, 429);
  first->WaitCancelled();
}

TEST(CompletionsTest, Refusals) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const struct {
    const char* body;
    const char* param;
    const char* message;
  } cases[] = {
      {R"({})", "prompt", "missing"},
      {R"({"prompt": []})", "prompt", "empty list"},
      {R"({"prompt": 5})", "prompt", "5, not a string or a list"},
      {R"({"prompt": ["a", 5]})", "prompt[1]", "5, not a list of ids"},
      {R"({"prompt": [5, "a"]})", "prompt[1]", "string, not an integer"},
      {R"({"prompt": [500]})", "token_ids[0]", "500, not in"},
      {R"({"prompt": "a", "suffix": "b"})", "suffix", "at the end alone"},
      {R"({"prompt": "a", "best_of": 2})", "best_of", "2, and n is 1"},
      {R"({"prompt": "a", "logprobs": 21})", "logprobs", "21, not in [0, 20]"},
      {R"({"prompt": "a", "max_tokens": 0})", "max_tokens", "0, less than 1"},
      {R"({"prompt": "a", "stop": [1]})", "stop[0]", "not a string"},
  };
  for (const auto& c : cases) {
    const auto response = client.Call("POST", kPath, c.body);
    EXPECT_EQ(response.status, 400) << c.body;
    const json error = response.Json()["error"];
    EXPECT_EQ(error["param"], c.param) << response.body;
    EXPECT_THAT(error["message"].get<std::string>(), HasSubstr(c.message));
  }
}

// As vLLM has it, which evaluation harnesses speak.
TEST(TokenizerApiTest, FormsOfEvaluationHarnesses) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  json body =
      client.Call("POST", "/tokenize", R"({"prompt": "hi", "add_special_tokens": false, "x": 1})").Json();
  EXPECT_EQ(body["tokens"], json({104, 105}));
  EXPECT_EQ(body["count"], 2);
  EXPECT_EQ(body["max_model_len"], 128);
  body = client.Call("POST", "/tokenize", R"({"prompt": "hi"})").Json();
  EXPECT_EQ(body["tokens"], json({kBos, 104, 105}));
  body = client.Call("POST", "/detokenize", R"({"tokens": [104, 105], "model": "m"})").Json();
  EXPECT_EQ(body["prompt"], "hi");
  EXPECT_EQ(client.Call("POST", "/detokenize", R"({"tokens": [1, "a"]})").Json()["error"]["param"],
            "tokens[1]");
  body = client.Call("GET", "/tokenizer_info").Json();
  EXPECT_EQ(body["eos_token"], "</s>");
  EXPECT_EQ(body["bos_token"], "<s>");
  EXPECT_EQ(body["chat_template"], "plain");
}

}  // namespace
}  // namespace moepool
