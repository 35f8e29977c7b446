// The locks of a whole gateway: every method of every service, and every way in over HTTP.
#include <unistd.h>

#include <fstream>
#include <map>
#include <thread>

#include "common/rpc/rpc_channel.h"
#include "gateway/gateway_server.h"
#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/client_context.h"
#include "grpcpp/completion_queue.h"
#include "grpcpp/generic/generic_stub.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using testing::HasSubstr;

class LocksTest : public testing::Test {
 protected:
  LocksTest()
      : trunk_(TestModelInfo()), path_(testing::TempDir() + "locks_keys." + std::to_string(getpid())) {
    made_ = *MakeApiKey("alice");
    std::ofstream(path_) << made_.line << "\n";
  }
  ~LocksTest() override { unlink(path_.c_str()); }

  void Start(const std::function<void(GatewayOptions*)>& change = [](GatewayOptions*) {}) {
    GatewayOptions options;
    options.http.address = {"127.0.0.1", 0};
    options.grpc_address = HostPort{"127.0.0.1", 0};
    options.model_factory = MakeTestModel;
    options.allowed_hosts = {"test"};
    options.keys = *ApiKeys::Load(path_);
    change(&options);
    server_ = *GatewayServer::Start(options, &trunk_, &metrics_);
    channel_ = MakeRpcChannel(server_->grpc_address()->ToString());
    HttpClient client(server_->http_address().port);
    while (client.Call("GET", "/ready").status != 200) std::this_thread::yield();
  }
  void Answer(const std::string& text) {
    trunk_.SetResponder([text](const SequenceRequest&) {
      return std::vector<SequenceUpdate>{IdsUpdate(text), LastUpdate(FinishReason::kStop)};
    });
  }

  // Calls a method of any kind with one empty message.
  grpc::Status Call(const std::string& method, const std::string& authorization) {
    grpc::ClientContext context;
    if (!authorization.empty()) context.AddMetadata("authorization", authorization);
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
    grpc::GenericStub stub(channel_);
    grpc::CompletionQueue queue;
    const auto call = stub.PrepareCall(&context, method, &queue);
    const auto wait = [&queue] {
      void* tag = nullptr;
      bool ok = false;
      EXPECT_TRUE(queue.Next(&tag, &ok));
      return ok;
    };
    call->StartCall(nullptr);
    wait();
    call->WriteLast(grpc::ByteBuffer(nullptr, 0), grpc::WriteOptions(), nullptr);
    wait();
    grpc::ByteBuffer message;
    do {
      call->Read(&message, nullptr);
    } while (wait());
    grpc::Status status;
    call->Finish(&status, nullptr);
    wait();
    return status;
  }

  FakeTrunk trunk_;
  Metrics metrics_;
  const std::string path_;
  NewApiKey made_;
  std::unique_ptr<GatewayServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(LocksTest, EveryMethodAsksForAKey) {
  Start();
  int asked = 0;
  for (const char* name : {kInferenceServiceName, kOpenInferenceServiceName}) {
    const auto* const service = google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(name);
    ASSERT_NE(service, nullptr);
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string method = std::string("/") + name + "/" + service->method(i)->name();
      const bool open =
          service->method(i)->name() == "ServerLive" || service->method(i)->name() == "ServerReady";
      for (const std::string& wrong : {std::string(), "Bearer " + made_.key + "x", made_.key}) {
        EXPECT_EQ(Call(method, wrong).error_code() == grpc::StatusCode::UNAUTHENTICATED, !open) << method;
      }
      EXPECT_NE(Call(method, "Bearer " + made_.key).error_code(), grpc::StatusCode::UNAUTHENTICATED)
          << method;
      asked += open ? 0 : 1;
    }
  }
  EXPECT_GE(asked, 10);
  EXPECT_TRUE(Call("/grpc.health.v1.Health/Check", "").ok());
  EXPECT_TRUE(Call("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "").ok());
  EXPECT_EQ(trunk_.calls(), 0u);
}

TEST_F(LocksTest, HttpAsksForAKeyBeforeTheBody) {
  Start();
  Answer("yes");
  HttpClient client(server_->http_address().port);
  // So large that a server which waits for it does not answer.
  client.SendRaw(
      "POST /infer HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: "
      "5000000\r\n\r\n{");
  const auto refused = client.Read();
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.Json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(refused.Header("Connection"), "close");
  EXPECT_FALSE(refused.Header("X-Request-Id").empty());
  // Without a body the connection goes on.
  HttpClient second(server_->http_address().port);
  EXPECT_EQ(second.Call("GET", "/v1/models").status, 401);
  EXPECT_EQ(second.Call("GET", "/metrics").status, 401);
  second.Send("POST", "/infer", R"({"prompt": "hi"})",
              "Content-Type: application/json\r\nAuthorization: Bearer " + made_.key + "\r\n");
  EXPECT_EQ(second.Read().Json()["text"], "yes");
}

TEST_F(LocksTest, CorsHeadersAreOnEveryAnswer) {
  Start([](GatewayOptions* options) {
    options->cors_origins = {"https://a.example"};
    options->http.max_body_bytes = 2048;
  });
  HttpClient client(server_->http_address().port);
  const std::string origin = "Content-Type: application/json\r\nOrigin: https://a.example\r\n";
  client.Send("OPTIONS", "/infer", "", origin + "Access-Control-Request-Method: POST\r\n");
  const auto preflight = client.Read();
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.Header("Access-Control-Allow-Origin"), "https://a.example");
  EXPECT_EQ(preflight.Header("Access-Control-Allow-Methods"), "GET, HEAD, POST");
  client.Send("GET", "/health", "", origin);
  EXPECT_EQ(client.Read().Header("Access-Control-Allow-Origin"), "https://a.example");
  client.Send("POST", "/infer", "{}", origin);
  const auto refused = client.Read();
  EXPECT_EQ(refused.status, 401);
  EXPECT_EQ(refused.Header("Access-Control-Allow-Origin"), "https://a.example");
  HttpClient large(server_->http_address().port);
  large.Send("POST", "/infer", std::string(4096, ' '),
             origin + "Authorization: Bearer " + made_.key + "\r\n");
  const auto too_large = large.Read();
  EXPECT_EQ(too_large.status, 413);
  EXPECT_EQ(too_large.Header("Access-Control-Allow-Origin"), "https://a.example");
}

TEST_F(LocksTest, ForeignHostsAreRefusedOnLoopback) {
  Start([](GatewayOptions* options) { options->allowed_hosts = {"test"}; });
  HttpClient client(server_->http_address().port);
  client.SendRaw("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n");
  const auto refused = client.Read();
  EXPECT_EQ(refused.status, 421);
  EXPECT_THAT(refused.body, HasSubstr("evil.example"));
}

TEST_F(LocksTest, AFullQueueSaysWhenToComeBack) {
  Start([](GatewayOptions* options) {
    options->keys = nullptr;
    options->inference.max_queue_requests = 1;
  });
  HttpClient waiting(server_->http_address().port);
  waiting.Send("POST", "/infer", R"({"prompt": "hi"})");
  const auto call = trunk_.WaitCall(0);
  HttpClient client(server_->http_address().port);
  const auto refused = client.Call("POST", "/infer", R"({"prompt": "hi"})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_EQ(refused.Json()["error"]["type"], "rate_limit_error");
  EXPECT_GE(std::stoi(refused.Header("Retry-After")), 1);

  const auto stub = v1::Inference::NewStub(channel_);
  const auto generate = [&](std::multimap<std::string, std::string>* trailers) {
    grpc::ClientContext context;
    v1::GenerateRequest request;
    request.set_prompt("hi");
    const auto reader = stub->Generate(&context, request);
    v1::GenerateResponse response;
    while (reader->Read(&response)) {
    }
    const grpc::Status status = reader->Finish();
    for (const auto& [key, value] : context.GetServerTrailingMetadata()) {
      trailers->emplace(std::string(key.data(), key.size()), std::string(value.data(), value.size()));
    }
    return status;
  };
  std::multimap<std::string, std::string> trailers;
  EXPECT_EQ(generate(&trailers).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  ASSERT_EQ(trailers.count("retry-after"), 1u);
  const int seconds = std::stoi(trailers.find("retry-after")->second);
  EXPECT_GE(seconds, 1);
  ASSERT_EQ(trailers.count("grpc-retry-pushback-ms"), 1u);
  EXPECT_EQ(trailers.find("grpc-retry-pushback-ms")->second, std::to_string(seconds * 1000));

  // Once the first has its first token, another may wait.
  call->SendIds(Ids("a"));
  Answer("b");
  while (client.Call("POST", "/infer", R"({"prompt": "hi"})").status == 429) std::this_thread::yield();
  trailers.clear();
  EXPECT_TRUE(generate(&trailers).ok());
  EXPECT_EQ(trailers.count("retry-after"), 0u);
  call->Finish(FinishReason::kStop);
  EXPECT_EQ(waiting.Read().status, 200);
}

TEST_F(LocksTest, TokensInFlight) {
  Start([](GatewayOptions* options) {
    options->keys = nullptr;
    options->inference.max_queue_tokens = 60;
  });
  HttpClient first(server_->http_address().port);
  first.Send("POST", "/infer", R"({"prompt": "hi", "max_tokens": 30})");  // 19 + 30
  const auto call = trunk_.WaitCall(0);
  HttpClient client(server_->http_address().port);
  const auto refused = client.Call("POST", "/infer", R"({"prompt": "hi", "max_tokens": 2})");
  EXPECT_EQ(refused.status, 429);
  EXPECT_THAT(refused.body, testing::AllOf(HasSubstr("49 tokens"), HasSubstr("21 more"), HasSubstr("60")));
  const auto large = client.Call("POST", "/infer", R"({"prompt": "hi", "max_tokens": 42})");
  EXPECT_EQ(large.status, 400);
  EXPECT_THAT(large.body, testing::AllOf(HasSubstr("61 tokens"), HasSubstr("60")));
  const auto several = client.Call("POST", "/infer", R"({"prompt": "hi", "max_tokens": 21, "n": 2})");
  EXPECT_EQ(several.status, 400);
  call->SendIds(Ids("a"));
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi", "max_tokens": 2})").status, 429);
  call->Finish(FinishReason::kStop);
  EXPECT_EQ(first.Read().status, 200);
  Answer("b");
  EXPECT_EQ(client.Call("POST", "/infer", R"({"prompt": "hi", "max_tokens": 2})").status, 200);
}

TEST_F(LocksTest, RequestIdsAndTracesArePassedOn) {
  Start([](GatewayOptions* options) { options->keys = nullptr; });
  Answer("x");
  const auto stub = v1::Inference::NewStub(channel_);
  const std::string trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  grpc::ClientContext context;
  context.AddMetadata("x-request-id", "my-request");
  context.AddMetadata("traceparent", trace);
  v1::GenerateRequest request;
  request.set_prompt("hi");
  const auto reader = stub->Generate(&context, request);
  v1::GenerateResponse response;
  while (reader->Read(&response)) {
  }
  ASSERT_TRUE(reader->Finish().ok());
  const auto sent = context.GetServerInitialMetadata().find("x-request-id");
  ASSERT_NE(sent, context.GetServerInitialMetadata().end());
  EXPECT_EQ(std::string(sent->second.data(), sent->second.size()), "my-request");
  EXPECT_EQ(trunk_.WaitCall(0)->request().request_id, "my-request");
  EXPECT_EQ(trunk_.WaitCall(0)->request().traceparent, trace);
  grpc::ClientContext unsound;
  unsound.AddMetadata("x-request-id", "has spaces");
  unsound.AddMetadata("traceparent", "00-zz");
  const auto again = stub->Generate(&unsound, request);
  while (again->Read(&response)) {
  }
  ASSERT_TRUE(again->Finish().ok());
  EXPECT_THAT(trunk_.WaitCall(1)->request().request_id, testing::StartsWith("req-"));
  EXPECT_EQ(trunk_.WaitCall(1)->request().traceparent, "");
}

}  // namespace
}  // namespace moepool
