#include "gateway/http/http_api.h"

#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::Not;

TEST(HttpApiTest, Infer) {
  HttpGateway gateway;
  gateway.Answer({"he", "llo"});
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", "/infer", R"({"prompt": "hi", "seed": 7})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.Header("Content-Type"), "application/json");
  const json body = response.Json();
  EXPECT_EQ(body["text"], "hello");
  EXPECT_EQ(body["finish_reason"], "stop");
  EXPECT_EQ(body["model"], "test-model");
  EXPECT_EQ(body["seed"], 7);
  EXPECT_EQ(
      body["usage"],
      json({{"prompt_tokens", 19}, {"cached_tokens", 3}, {"completion_tokens", 5}, {"reasoning_tokens", 0}}));
  EXPECT_EQ(body["timings"]["queue_ms"], 2.5);
  EXPECT_TRUE(body["timings"].contains("ttft_ms"));
  EXPECT_TRUE(body["timings"].contains("decode_ms"));
  EXPECT_THAT(body["id"].get<std::string>(), testing::StartsWith("infer-"));

  const SequenceRequest& request = gateway.trunk.WaitCall(0)->request();
  std::vector<int32_t> expected = {kBos};
  for (const int32_t id : Ids("user:hi|assistant:")) expected.push_back(id);
  EXPECT_EQ(request.prompt, expected);
  EXPECT_EQ(request.sampling.seed, 7u);
  EXPECT_THAT(request.stop_ids, testing::ElementsAre(kEos));
  EXPECT_EQ(request.max_tokens, 128 - 19);  // 256, lowered to what the context leaves
}

TEST(HttpApiTest, RawSkipsTheTemplateAndAddsBosOnce) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi", "raw": true, "max_tokens": 3})").status, 200);
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "<s>hi", "raw": true})").status, 200);
  EXPECT_THAT(gateway.trunk.WaitCall(0)->request().prompt, testing::ElementsAre(kBos, 'h', 'i'));
  EXPECT_THAT(gateway.trunk.WaitCall(1)->request().prompt, testing::ElementsAre(kBos, 'h', 'i'));
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().max_tokens, 3);
}

TEST(HttpApiTest, DrawnSeedIsReturned) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const json first = client.Call("POST", "/infer", R"({"prompt": "hi"})").Json();
  const json second = client.Call("POST", "/infer", R"({"prompt": "hi"})").Json();
  EXPECT_EQ(first["seed"], gateway.trunk.WaitCall(0)->request().sampling.seed);
  EXPECT_NE(first["seed"], second["seed"]);
  EXPECT_LT(first["seed"].get<uint64_t>(), uint64_t{1} << 53);
}

TEST(HttpApiTest, Stream) {
  HttpGateway gateway;
  gateway.Answer({"h\xC3", "\xA9", "!"}, FinishReason::kLength);
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", "/infer", R"({"prompt": "hi", "stream": true})");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Type"), "text/event-stream");
  EXPECT_EQ(response.Header("Transfer-Encoding"), "chunked");
  const std::vector<std::string> lines = DataLines(response.body);
  ASSERT_EQ(lines.size(), 5u) << response.body;
  EXPECT_EQ(json::parse(lines[0]), json({{"text", "h"}}));
  EXPECT_EQ(json::parse(lines[1]), json({{"text", "é"}}));
  EXPECT_EQ(json::parse(lines[2]), json({{"text", "!"}}));
  const json last = json::parse(lines[3]);
  EXPECT_EQ(last["finish_reason"], "length");
  EXPECT_EQ(last["usage"]["completion_tokens"], 4);
  EXPECT_EQ(last["text"], "");
  EXPECT_EQ(lines[4], "[DONE]");
  // The connection goes on.
  EXPECT_EQ(client.Call("GET", "/health").status, 200);
}

TEST(HttpApiTest, StopStringAcrossTokensEndsTheSequence) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "stop": ["。\n"]})");
  const auto call = gateway.trunk.WaitCall(0);
  SequenceUpdate first = IdsUpdate("好\xE3\x80");
  first.cached_tokens = 2;
  call->Send(std::move(first));
  call->Send(IdsUpdate("\x82\n never shown"));
  call->WaitCancelled();
  const json body = client.Read().Json();
  EXPECT_EQ(body["text"], "好");
  EXPECT_EQ(body["finish_reason"], "stop");
  EXPECT_EQ(body["usage"]["completion_tokens"], 7);
  EXPECT_EQ(body["usage"]["cached_tokens"], 2);
  EXPECT_FALSE(call->SendIds({'x'}));
}

TEST(HttpApiTest, HeldTextIsNotStreamed) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "stream": true, "stop": "END"})");
  const auto call = gateway.trunk.WaitCall(0);
  call->SendIds(Ids("aEN"));
  EXPECT_THAT(client.ReadUntil("\n\n\r\n"), HasSubstr(R"(data: {"text":"a"})"));
  call->SendIds(Ids("Eb"));
  EXPECT_THAT(client.ReadUntil("\n\n\r\n"), HasSubstr(R"(data: {"text":"ENEb"})"));
  call->Finish(FinishReason::kStop);
  EXPECT_THAT(client.ReadUntil("[DONE]"), HasSubstr("finish_reason"));
}

TEST(HttpApiTest, ErrorsNameTheField) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const auto response = client.Call("POST", "/infer", R"({"prompt": "hi", "top_p": 2})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json(), json({{"error",
                                    {{"message", "top_p is 2, not in (0, 1]"},
                                     {"type", "invalid_request_error"},
                                     {"param", "top_p"},
                                     {"code", "invalid_argument"}}}}));
  EXPECT_EQ(gateway.trunk.calls(), 0u);
}

TEST(HttpApiTest, PromptBeyondTheContext) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  const std::string fits(126, 'a');  // with BOS 127
  EXPECT_EQ(client.Call("POST", "/infer", json({{"prompt", fits}, {"raw", true}}).dump()).status, 200);
  EXPECT_EQ(gateway.trunk.WaitCall(0)->request().max_tokens, 1);
  const auto response = client.Call("POST", "/infer", json({{"prompt", fits + "a"}, {"raw", true}}).dump());
  EXPECT_EQ(response.status, 400);
  const std::string message = response.Json()["error"]["message"];
  EXPECT_THAT(message, HasSubstr("prompt has 128 tokens"));
  EXPECT_THAT(message, HasSubstr("127"));
}

TEST(HttpApiTest, ErrorOfTheTrunk) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const struct {
    absl::Status status;
    int http_status;
    const char* type;
    const char* retry_after;
  } cases[] = {{absl::UnavailableError("no holder for expert 3"), 503, "server_error", "1"},
               {absl::ResourceExhaustedError("the queue is full"), 429, "rate_limit_error", "1"},
               {absl::DeadlineExceededError("too late"), 504, "server_error", ""},
               {absl::InternalError("broken"), 500, "server_error", ""},
               {absl::InvalidArgumentError("ids"), 400, "invalid_request_error", ""}};
  size_t i = 0;
  for (const auto& c : cases) {
    client.Send("POST", "/infer", R"({"prompt": "hi", "stream": true})");
    gateway.trunk.WaitCall(i++)->Fail(c.status);
    const auto response = client.Read();
    EXPECT_EQ(response.status, c.http_status);
    EXPECT_EQ(response.Json()["error"]["message"], std::string(c.status.message()));
    EXPECT_EQ(response.Json()["error"]["type"], c.type);
    EXPECT_EQ(response.Header("Retry-After"), c.retry_after);
  }
}

TEST(HttpApiTest, FailureDuringAStreamIsItsLastLine) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "stream": true})");
  const auto call = gateway.trunk.WaitCall(0);
  call->SendIds(Ids("part"));
  call->Fail(absl::UnavailableError("worker 2 was lost"));
  const std::vector<std::string> lines = DataLines(client.Read().body);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(json::parse(lines[0])["text"], "part");
  EXPECT_EQ(json::parse(lines[1])["error"]["message"], "worker 2 was lost");
}

TEST(HttpApiTest, ClientThatLeavesCancels) {
  HttpGateway gateway;
  for (const bool stream : {true, false}) {
    HttpClient client(gateway.port());
    client.Send("POST", "/infer", json({{"prompt", "hi"}, {"stream", stream}}).dump());
    const auto call = gateway.trunk.WaitCall(stream ? 0 : 1);
    call->SendIds({'a'});
    if (stream) client.ReadUntil("data: ");
    client.Close();
    call->WaitCancelled();
  }
}

// A client that ends its sending side alone gets to read why.
TEST(HttpApiTest, ClientThatEndsItsSideCancels) {
  HttpGateway gateway;
  for (const bool stream : {true, false}) {
    HttpClient client(gateway.port());
    client.Send("POST", "/infer", json({{"prompt", "hi"}, {"stream", stream}}).dump());
    const auto call = gateway.trunk.WaitCall(stream ? 0 : 1);
    call->SendIds({'a'});
    if (stream) client.ReadUntil("data: ");
    client.EndSending();
    call->WaitCancelled();
    const std::string rest = client.ReadUntil("never");
    EXPECT_THAT(rest, HasSubstr(R"("code":"cancelled")"));
    EXPECT_EQ(rest.substr(0, 13) == "HTTP/1.1 499 ", !stream);
    EXPECT_THAT(rest, Not(HasSubstr("[DONE]")));
  }
}

TEST(HttpApiTest, SilentStreamSendsComments) {
  HttpGatewayOptions options;
  options.api.keepalive_interval = absl::Milliseconds(5);
  HttpGateway gateway(options);
  HttpClient client(gateway.port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "stream": true})");
  const auto call = gateway.trunk.WaitCall(0);
  EXPECT_THAT(client.ReadUntil(": keepalive\n\n"), HasSubstr("200 OK"));
  EXPECT_THAT(client.ReadUntil(": keepalive\n\n"), Not(HasSubstr("data")));
  // After its header a stream has no other status to give.
  call->Fail(absl::UnavailableError("gone"));
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"), HasSubstr(R"(data: {"error")"));
}

TEST(HttpApiTest, RequestsInFlightAreBounded) {
  HttpGatewayOptions options;
  options.inference.max_requests = 1;
  HttpGateway gateway(options);
  HttpClient first(gateway.port());
  first.Send("POST", "/infer", R"({"prompt": "hi"})");
  const auto call = gateway.trunk.WaitCall(0);
  HttpClient second(gateway.port());
  const auto response = second.Call("POST", "/infer", R"({"prompt": "hi"})");
  EXPECT_EQ(response.status, 429);
  EXPECT_EQ(response.Header("Retry-After"), "1");
  EXPECT_THAT(response.Json()["error"]["message"].get<std::string>(), HasSubstr("1 requests"));
  call->Finish(FinishReason::kStop);
  EXPECT_EQ(first.Read().status, 200);
  gateway.Answer({"x"});
  EXPECT_EQ(first.Call("POST", "/infer", R"({"prompt": "hi"})").status, 200);
}

TEST(HttpApiTest, PathsAndMethods) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  auto response = client.Call("GET", "/nothing");
  EXPECT_EQ(response.status, 404);
  EXPECT_THAT(response.Json()["error"]["message"].get<std::string>(), HasSubstr("/nothing"));
  response = client.Call("GET", "/infer");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.Header("Allow"), "POST, OPTIONS");
  EXPECT_TRUE(response.Json().contains("error"));
  response = client.Call("DELETE", "/health");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.Header("Allow"), "GET, HEAD, OPTIONS");
  response = client.Call("OPTIONS", "/infer");
  EXPECT_EQ(response.status, 204);
  EXPECT_EQ(response.Header("Allow"), "POST, OPTIONS");
  response = client.Call("HEAD", "/health");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.Header("Content-Length"), std::to_string(std::string(R"({"status":"ok"})").size()));
  client.Send("POST", "/infer", R"({"prompt": "hi"})", "Content-Type: text/plain\r\n");
  EXPECT_EQ(client.Read().status, 415);
  EXPECT_EQ(client.Call("GET", "/health").Json(), json({{"status", "ok"}}));
}

TEST(HttpApiTest, Tokenize) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const json body = client.Call("POST", "/tokenize", R"({"text": "é"})").Json();
  EXPECT_EQ(body["ids"], json({kBos, 0xC3, 0xA9}));
  EXPECT_EQ(body["pieces"].size(), 3u);
  EXPECT_EQ(client.Call("POST", "/tokenize", R"({"text": 1})").Json()["error"]["param"], "text");
  EXPECT_EQ(
      client.Call("POST", "/tokenize", R"({"text": "<s>", "parse_special": false})").Json()["ids"].size(),
      4u);
}

TEST(HttpApiTest, ModelsReadyAndMetrics) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  HttpClient client(gateway.port());
  EXPECT_EQ(client.Call("GET", "/v1/models").Json()["data"][0]["id"], "test-model");
  EXPECT_EQ(client.Call("GET", "/ready").status, 200);
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi"})").status, 200);
  const auto response = client.Call("GET", "/metrics");
  EXPECT_THAT(response.Header("Content-Type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(response.body, HasSubstr("moepool_request_success_total{finished_reason=\"stop\"} 1"));
  EXPECT_THAT(response.body, HasSubstr("moepool_generation_tokens_total 1"));
  EXPECT_THAT(response.body, HasSubstr("moepool_num_requests_running 0"));
  EXPECT_THAT(response.body, HasSubstr("moepool_num_requests_waiting 0"));
}

TEST(HttpApiTest, NotReadyUntilThePoolIs) {
  HttpGatewayOptions options;
  options.wait_ready = false;
  HttpGateway gateway(options);
  gateway.ready.Wait(true);
  PoolInfo pool;
  pool.waiting_for = "1 of 2 workers";
  gateway.trunk.SetPool(pool);
  gateway.watcher.Refresh();
  gateway.ready.Wait(false);
  gateway.trunk.SetStatus(absl::UnavailableError("no router"));
  HttpClient client(gateway.port());
  const auto response = client.Call("GET", "/ready");
  EXPECT_EQ(response.status, 503);
  EXPECT_TRUE(response.Json().contains("error"));
  // The model is known still; what the trunk says is passed on.
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi"})").status, 503);
  EXPECT_EQ(client.Call("GET", "/health").status, 200);
}

TEST(HttpApiTest, RouterThatComesBackWithAnotherModel) {
  HttpGateway gateway;
  gateway.Answer({"x"});
  gateway.trunk.SetStatus(absl::UnavailableError("restarting"));
  gateway.watcher.Refresh();
  gateway.ready.Wait(false);
  ModelInfo other = TestModelInfo();
  other.name = "other";
  other.digest[0] = 2;
  other.tokenizer.chat_template = "";
  gateway.trunk.SetModel(other);
  gateway.trunk.SetStatus(absl::OkStatus());
  gateway.watcher.Refresh();
  gateway.ready.Wait(true);
  HttpClient client(gateway.port());
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi"})").Json()["model"], "other");
  // Without a template a prompt goes in as it is, and a conversation cannot.
  EXPECT_THAT(gateway.trunk.WaitCall(0)->request().prompt, testing::ElementsAre(kBos, 'h', 'i'));
  EXPECT_EQ(client.Call("POST", "/infer", R"({"messages": [{"role": "user", "content": "hi"}]})").status,
            400);
}

TEST(HttpApiTest, TemplateRefusal) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const auto response =
      client.Call("POST", "/infer", R"({"messages": [{"role": "refused", "content": "hi"}]})");
  EXPECT_EQ(response.status, 400);
  EXPECT_EQ(response.Json()["error"]["param"], "messages");
  EXPECT_THAT(response.Json()["error"]["message"].get<std::string>(), HasSubstr("no such role"));
}

TEST(HttpApiTest, ManyClientsAtOnce) {
  HttpGateway gateway;
  // Each is answered with its own prompt.
  gateway.trunk.SetResponder([](const SequenceRequest& request) {
    std::vector<SequenceUpdate> updates;
    for (const int32_t id : request.prompt) updates.emplace_back().ids = {id};
    updates.push_back(LastUpdate(FinishReason::kStop));
    return updates;
  });
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 100; ++i) {
    threads.emplace_back([&, i] {
      HttpClient client(gateway.port());
      for (int round = 0; round < 3; ++round) {
        const std::string prompt = "prompt " + std::to_string(i) + "." + std::to_string(round);
        const bool stream = (i + round) % 2 == 0;
        const auto response = client.Call(
            "POST", "/infer", json({{"prompt", prompt}, {"raw", true}, {"stream", stream}}).dump());
        std::string text;
        if (stream) {
          for (const std::string& line : DataLines(response.body)) {
            if (line != "[DONE]") text += json::parse(line)["text"].get<std::string>();
          }
        } else {
          text = response.Json()["text"];
        }
        if (response.status == 200 && text == prompt) good.fetch_add(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good.load(), 300);
}

TEST(HttpApiTest, ShutdownCancelsWhatRuns) {
  auto gateway = std::make_unique<HttpGateway>();
  HttpClient client(gateway->port());
  client.Send("POST", "/infer", R"({"prompt": "hi", "stream": true})");
  const auto call = gateway->trunk.WaitCall(0);
  gateway.reset();
  call->WaitCancelled();
  EXPECT_TRUE(client.AtEnd());
}

// A front end's work on the pool refers to its server: Shutdown waits for it, whether or not a request has
// come of it.
TEST(HttpApiTest, ShutdownWaitsForTheFrontEndsWork) {
  class Responder : public HttpResponder {
   public:
    void Send(HttpResponse) override {}
    void StartStream(std::string) override {}
    void Write(std::string) override {}
    void EndStream() override {}
    void OnDisconnect(std::function<void()>) override {}
  };
  HttpGateway gateway;
  HttpApi api(&gateway.inference, &gateway.watcher, &gateway.metrics, {});
  std::vector<std::weak_ptr<HttpResponder>> responders;
  for (int i = 0; i < 20; ++i) {
    for (const std::string path : {"/infer", "/tokenize"}) {
      HttpRequest request;
      request.method = "POST";
      request.path = path;
      request.content_type = "application/json";
      request.body = json({{path == "/infer" ? "prompt" : "text", std::string(100'000, 'x')}}).dump();
      auto responder = std::make_shared<Responder>();
      responders.push_back(responder);
      api.Handle(std::move(request), std::move(responder));
    }
  }
  gateway.inference.Shutdown();
  for (const auto& responder : responders) EXPECT_TRUE(responder.expired());
}

}  // namespace
}  // namespace moepool
