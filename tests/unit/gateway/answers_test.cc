// Several answers to one request, log-probabilities, and when an answer may end: through HTTP, over a fake
// trunk.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::vector<json> Events(const std::string& body) {
  std::vector<json> events;
  for (size_t at = body.find("data: "); at != std::string::npos; at = body.find("data: ", at)) {
    const size_t end = body.find("\n\n", at);
    const std::string line = body.substr(at + 6, end - at - 6);
    events.push_back(line == "[DONE]" ? json("[DONE]") : json::parse(line));
    at = end;
  }
  return events;
}

// "a" to the first seed given, "bb" to the next, and so on.
std::vector<SequenceUpdate> BySeed(const SequenceRequest& request, uint64_t first) {
  const auto i = static_cast<size_t>(request.sampling.seed - first);
  return {IdsUpdate(std::string(i + 1, static_cast<char>('a' + i))),
          LastUpdate(i == 0 ? FinishReason::kLength : FinishReason::kStop)};
}

TEST(AnswersTest, SeveralAnswers) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest& request) { return BySeed(request, 7); });
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", "/infer", R"({"prompt": "hi", "seed": 7, "n": 3})");
  ASSERT_EQ(response.status, 200) << response.body;
  const json body = response.Json();
  EXPECT_EQ(body["choices"], json::parse(R"([
      {"index": 0, "text": "a", "finish_reason": "length", "seed": 7},
      {"index": 1, "text": "bb", "finish_reason": "stop", "seed": 8},
      {"index": 2, "text": "ccc", "finish_reason": "stop", "seed": 9}])"));
  EXPECT_EQ(
      body["usage"],
      json({{"prompt_tokens", 19}, {"cached_tokens", 3}, {"completion_tokens", 6}, {"reasoning_tokens", 0}}));
  EXPECT_FALSE(body.contains("text"));
  EXPECT_EQ(body["model"], "test-model");
  EXPECT_EQ(gateway.trunk.calls(), 3u);
  EXPECT_EQ(gateway.trunk.WaitCall(2)->request().prompt, gateway.trunk.WaitCall(0)->request().prompt);
  EXPECT_NE(gateway.trunk.WaitCall(2)->request().request_id, gateway.trunk.WaitCall(0)->request().request_id);
  EXPECT_EQ(gateway.inference.admission().in_flight(), 0);
}

TEST(AnswersTest, SeveralAnswersAsAStream) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "seed": 18446744073709551615, "n": 2, "stream": true})");
  const auto first = gateway.trunk.WaitCall(0);
  const auto second = gateway.trunk.WaitCall(1);
  EXPECT_EQ(first->request().sampling.seed, ~uint64_t{0});
  EXPECT_EQ(second->request().sampling.seed, 0u);
  second->SendIds({'x', 0xC3});
  first->SendIds({'a'});
  first->Finish(FinishReason::kStop);
  second->SendIds({0xA9});
  second->Finish(FinishReason::kLength);
  const std::vector<json> events = Events(client.Read().body);
  ASSERT_EQ(events.size(), 7u) << json(events);
  EXPECT_EQ(events[0], json({{"index", 1}, {"text", "x"}}));
  EXPECT_EQ(events[1], json({{"index", 0}, {"text", "a"}}));
  EXPECT_EQ(events[2], json({{"index", 0}, {"text", ""}, {"finish_reason", "stop"}, {"seed", ~uint64_t{0}}}));
  EXPECT_EQ(events[3], json({{"index", 1}, {"text", "é"}}));
  EXPECT_EQ(events[4], json({{"index", 1}, {"text", ""}, {"finish_reason", "length"}, {"seed", 0}}));
  EXPECT_EQ(events[5]["usage"]["completion_tokens"], 4);
  EXPECT_FALSE(events[5].contains("finish_reason"));
  EXPECT_EQ(events[6], "[DONE]");
}

TEST(AnswersTest, OneThatFailsFailsTheRequest) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "n": 3})");
  gateway.trunk.WaitCall(0)->SendIds({'a'});
  gateway.trunk.WaitCall(1)->Fail(absl::UnavailableError("expert 3 has no holder"));
  const auto response = client.Read();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.Json()["error"]["message"], "answer 1: expert 3 has no holder");
  gateway.trunk.WaitCall(0)->WaitCancelled();
  gateway.trunk.WaitCall(2)->WaitCancelled();
}

TEST(AnswersTest, AStopStringEndsItsAnswerAlone) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "n": 2, "stop": "!"})");
  const auto first = gateway.trunk.WaitCall(0);
  const auto second = gateway.trunk.WaitCall(1);
  first->SendIds(Ids("ab!"));
  first->WaitCancelled();
  second->SendIds(Ids("cd"));
  second->Finish(FinishReason::kLength);
  const json choices = client.Read().Json()["choices"];
  EXPECT_EQ(choices[0]["text"], "ab");
  EXPECT_EQ(choices[0]["finish_reason"], "stop");
  EXPECT_EQ(choices[1]["text"], "cd");
  EXPECT_EQ(choices[1]["finish_reason"], "length");
}

TEST(AnswersTest, AllAreAdmittedOrNone) {
  HttpGatewayOptions options;
  options.inference.max_requests = 3;
  HttpGateway gateway(options);
  HttpClient first(gateway.port());
  first.Send("POST", "/infer", R"({"prompt": "hi", "n": 2})");
  const auto call = gateway.trunk.WaitCall(0);
  const auto other = gateway.trunk.WaitCall(1);
  HttpClient second(gateway.port());
  auto response = second.Call("POST", "/infer", R"({"prompt": "hi", "n": 2})");
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.Header("Retry-After"), "1");
  EXPECT_EQ(gateway.trunk.calls(), 2u);
  response = second.Call("POST", "/infer", R"({"prompt": "hi", "n": 4})");  // never
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json()["error"]["param"], "n");
  second.Send("POST", "/infer", R"({"prompt": "hi"})");
  gateway.trunk.WaitCall(2)->Finish(FinishReason::kStop);
  EXPECT_EQ(second.Read().status, 200);
  call->Finish(FinishReason::kStop);
  other->Finish(FinishReason::kStop);
  EXPECT_EQ(first.Read().status, 200);
  EXPECT_EQ(gateway.inference.admission().in_flight(), 0);
}

TEST(AnswersTest, TokenizeTakesAPlace) {
  HttpGatewayOptions options;
  options.inference.max_requests = 1;
  HttpGateway gateway(options);
  HttpClient first(gateway.port());
  first.Send("POST", "/infer", R"({"prompt": "hi"})");
  const auto call = gateway.trunk.WaitCall(0);
  HttpClient second(gateway.port());
  EXPECT_EQ(second.Call("POST", "/tokenize", R"({"text": "a"})").status, 429);
  call->Finish(FinishReason::kStop);
  EXPECT_EQ(first.Read().status, 200);
  EXPECT_EQ(second.Call("POST", "/tokenize", R"({"text": "a"})").status, 200);
  // Its place is given back once the answer is on its way.
  while (gateway.inference.admission().in_flight() > 0) std::this_thread::yield();
}

SequenceUpdate WithLogprobs(std::vector<int32_t> ids) {
  SequenceUpdate update;
  update.ids = std::move(ids);
  for (const int32_t id : update.ids) update.logprobs.push_back({-id / 64.0f, {{'z', -0.25f}, {kEos, -4}}});
  return update;
}

TEST(AnswersTest, LogprobsGoWithTokensNotWithCharacters) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest&) {
    return std::vector<SequenceUpdate>{WithLogprobs({'h', 0xC3}), WithLogprobs({0xA9}),
                                       LastUpdate(FinishReason::kStop)};
  });
  HttpClient client(gateway.port());
  const json body =
      client.Call("POST", "/infer", R"({"prompt": "hi", "logprobs": true, "top_logprobs": 2})").Json();
  EXPECT_EQ(body["text"], "hé");
  ASSERT_EQ(body["logprobs"].size(), 3u) << body;
  EXPECT_EQ(body["logprobs"][0], json::parse(R"({"id": 104, "text": "h", "bytes": [104], "logprob": -1.625,
      "top": [{"id": 122, "text": "z", "bytes": [122], "logprob": -0.25},
              {"id": 257, "text": "</s>", "bytes": [60, 47, 115, 62], "logprob": -4.0}]})"));
  EXPECT_EQ(body["logprobs"][1]["text"], "\xEF\xBF\xBD");
  EXPECT_EQ(body["logprobs"][1]["bytes"], json({0xC3}));
  EXPECT_EQ(body["logprobs"][2]["bytes"], json({0xA9}));
  const SamplingParams& sampling = gateway.trunk.WaitCall(0)->request().sampling;
  EXPECT_TRUE(sampling.logprobs);
  EXPECT_EQ(sampling.top_logprobs, 2);

  // In a stream each comes with its token, whether or not there is text yet.
  const std::vector<json> events =
      Events(client.Call("POST", "/infer", R"({"prompt": "hi", "logprobs": true, "stream": true})").body);
  ASSERT_EQ(events.size(), 4u) << json(events);
  EXPECT_EQ(events[0]["text"], "h");
  EXPECT_EQ(events[0]["logprobs"].size(), 2u);
  EXPECT_EQ(events[1]["text"], "é");
  EXPECT_EQ(events[1]["logprobs"].size(), 1u);
  EXPECT_FALSE(events[2].contains("logprobs"));
  EXPECT_FALSE(client.Call("POST", "/infer", R"({"prompt": "hi"})").Json().contains("logprobs"));
}

TEST(AnswersTest, LogprobsOfHeldText) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "logprobs": true, "stream": true, "stop": "ab"})");
  const auto call = gateway.trunk.WaitCall(0);
  call->Send(WithLogprobs({'a'}));
  call->Send(WithLogprobs({'a', 'b', 'c'}));
  const std::vector<json> events = Events(client.Read().body);
  ASSERT_EQ(events.size(), 4u) << json(events);
  EXPECT_EQ(events[0]["text"], "");
  EXPECT_EQ(events[0]["logprobs"][0]["text"], "a");
  EXPECT_EQ(events[1]["text"], "a");
  EXPECT_EQ(events[1]["logprobs"].size(), 2u);  // those of the stop string; what came after was not taken
  EXPECT_EQ(events[2]["finish_reason"], "stop");
}

TEST(AnswersTest, LogprobsThatDoNotFitAreTheRoutersFault) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "logprobs": true})");
  SequenceUpdate update = WithLogprobs({'a', 'b'});
  update.logprobs.pop_back();
  gateway.trunk.WaitCall(0)->Send(std::move(update));
  const auto response = client.Read();
  EXPECT_EQ(response.status, 500);
  EXPECT_THAT(response.body, HasSubstr("2 ids and 1 log-probabilities"));
}

TEST(AnswersTest, EndsThatAreIgnoredOrLate) {
  HttpGateway gateway;
  gateway.trunk.SetResponder([](const SequenceRequest&) {
    SequenceUpdate update = IdsUpdate("a!b");
    update.ids.push_back(kEos);
    update.ids.push_back('!');
    return std::vector<SequenceUpdate>{update, LastUpdate(FinishReason::kLength)};
  });
  HttpClient client(gateway.port());
  json body = client.Call("POST", "/infer", R"({"prompt": "hi", "ignore_eos": true})").Json();
  EXPECT_EQ(body["text"], "a!b!");
  EXPECT_EQ(body["usage"]["completion_tokens"], 5);
  EXPECT_TRUE(gateway.trunk.WaitCall(0)->request().stop_ids.empty());
  body = client.Call("POST", "/infer", R"({"prompt": "hi", "min_tokens": 3, "stop": "!"})").Json();
  EXPECT_EQ(body["text"], "a!b");
  EXPECT_EQ(body["finish_reason"], "stop");
  EXPECT_EQ(gateway.trunk.WaitCall(1)->request().sampling.min_tokens, 3);
  EXPECT_THAT(gateway.trunk.WaitCall(1)->request().stop_ids, testing::ElementsAre(kEos));
}

TEST(AnswersTest, BiasesAndBreakersReachTheTrunkAsIds) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  auto response = client.Call("POST", "/infer", R"({"prompt": "hi", "logit_bias": {"258": 1}})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json()["error"]["param"], "logit_bias[258]");
  response = client.Call("POST", "/infer",
                         R"({"prompt": "hi", "logit_bias": {"257": 1}, "dry_multiplier": 0.5,
                             "dry_sequence_breakers": ["*", ":", "xy"], "repeat_last_n": 5})");
  ASSERT_EQ(response.status, 200) << response.body;
  const SamplingParams& sampling = gateway.trunk.WaitCall(0)->request().sampling;
  EXPECT_EQ(sampling.logit_bias[0].id, 257);
  EXPECT_EQ(sampling.repeat_last_n, 5);
  EXPECT_EQ(sampling.dry.multiplier, 0.5);
  EXPECT_THAT(sampling.dry.breaker_ids, testing::ElementsAre('*', ':'));
  EXPECT_THAT(sampling.dry.breaker_sequences, testing::ElementsAre(testing::ElementsAre('x', 'y')));
}

}  // namespace
}  // namespace moepool
