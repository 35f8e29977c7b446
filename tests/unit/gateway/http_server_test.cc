#include "gateway/http/http_server.h"

#include <algorithm>
#include <thread>

#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

HttpServerOptions Loopback() {
  HttpServerOptions options;
  options.address = {"127.0.0.1", 0};
  return options;
}

void Echo(HttpRequest request, std::shared_ptr<HttpResponder> responder) {
  HttpResponse response;
  response.body = request.method + " " + request.path + "?" + request.query + " " + request.body;
  responder->Send(std::move(response));
}

HttpResponse Text(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

std::unique_ptr<HttpServer> StartServer(const HttpServerOptions& options, HttpHandler handler) {
  auto server = HttpServer::Start(options, std::move(handler), OpenAiErrorBody);
  MOEPOOL_CHECK(server.ok());
  return *std::move(server);
}

// The answers of requests, kept for the test to give.
class Held {
 public:
  HttpHandler Handler() {
    return [this](HttpRequest, std::shared_ptr<HttpResponder> responder) {
      MutexLock lock(&mutex_);
      responder_ = std::move(responder);
      changed_.NotifyAll();
    };
  }
  std::shared_ptr<HttpResponder> Take() {
    MutexLock lock(&mutex_);
    while (responder_ == nullptr) changed_.Wait(&mutex_);
    return std::move(responder_);
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  std::shared_ptr<HttpResponder> responder_ GUARDED_BY(mutex_);
};

TEST(HttpServerTest, SeveralRequestsOnOneConnection) {
  const auto server = StartServer(Loopback(), Echo);
  HttpClient client(server->address().port);
  for (const std::string body : {"one", "", "three"}) {
    client.Send("POST", "/a?b=c", body);
    const auto response = client.Read();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, "POST /a?b=c " + body);
  }
}

TEST(HttpServerTest, PipelinedRequestsAreAnsweredInOrder) {
  const auto server = StartServer(Loopback(), Echo);
  HttpClient client(server->address().port);
  std::string requests;
  for (int i = 0; i < 50; ++i) requests += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n";
  client.SendRaw(requests);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(client.Read().body, "GET /" + std::to_string(i) + "? ");
}

// The second request arrives while the first is being answered, its header in two pieces.
TEST(HttpServerTest, RequestThatArrivesDuringAnAnswer) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/1");
  const auto first = held.Take();
  client.SendRaw("GET /2 HTTP/1.1\r\nHo");
  first->Send(Text("first"));
  EXPECT_EQ(client.Read().body, "first");
  client.SendRaw("st: x\r\n\r\n");
  held.Take()->Send(Text("second"));
  EXPECT_EQ(client.Read().body, "second");
}

TEST(HttpServerTest, LargeBodyIsRefusedBeforeItIsSent) {
  HttpServerOptions options = Loopback();
  options.max_body_bytes = 1000;
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
  const auto response = client.Read();
  EXPECT_EQ(response.status, 413);
  EXPECT_NE(response.Json()["error"]["message"].get<std::string>().find("1000 bytes"), std::string::npos);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, LargeChunkedBodyIsRefused) {
  HttpServerOptions options = Loopback();
  options.max_body_bytes = 1000;
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
  for (int i = 0; i < 5; ++i) client.SendRaw("100\r\n" + std::string(256, 'x') + "\r\n");
  EXPECT_EQ(client.Read().status, 413);
}

TEST(HttpServerTest, ChunkedBody) {
  const auto server = StartServer(Loopback(), Echo);
  HttpClient client(server->address().port);
  client.SendRaw(
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  EXPECT_EQ(client.Read().body, "POST /? abcde");
}

TEST(HttpServerTest, LargeHeaderIsRefused) {
  const auto server = StartServer(Loopback(), Echo);
  HttpClient client(server->address().port);
  client.SendRaw("GET / HTTP/1.1\r\nHost: x\r\nX: " + std::string(17 << 10, 'x') + "\r\n\r\n");
  EXPECT_EQ(client.Read().status, 431);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, MalformedHttp) {
  const auto server = StartServer(Loopback(), Echo);
  for (const char* bytes :
       {"\x16\x03\x01 hello\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\nGET /smuggled",
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"}) {
    HttpClient client(server->address().port);
    client.SendRaw(bytes);
    EXPECT_EQ(client.Read().status, 400) << bytes;
    EXPECT_TRUE(client.AtEnd());
  }
  HttpClient client(server->address().port);
  EXPECT_EQ(client.Call("GET", "/").status, 200);
}

TEST(HttpServerTest, ExpectContinue) {
  const auto server = StartServer(Loopback(), Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.SendRaw("ab");
  EXPECT_EQ(client.Read().body, "POST /? ab");
}

TEST(HttpServerTest, SlowHeaderTimesOut) {
  HttpServerOptions options = Loopback();
  options.header_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
  EXPECT_EQ(client.Read().status, 408);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, SlowBodyTimesOut) {
  HttpServerOptions options = Loopback();
  options.body_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(client.Read().status, 408);
}

TEST(HttpServerTest, IdleConnectionIsClosed) {
  HttpServerOptions options = Loopback();
  options.idle_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, ClientThatNeverReadsIsDropped) {
  HttpServerOptions options = Loopback();
  options.write_timeout = absl::Milliseconds(50);
  Held held;
  const auto server = StartServer(options, held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  const auto responder = held.Take();
  Flag gone;
  responder->OnDisconnect([&] { gone.Set(true); });
  responder->StartStream("text/plain");
  responder->Write(std::string(64 << 20, 'x'));
  gone.Wait(true);
}

// Nothing is generated more slowly for a client that reads slowly.
TEST(HttpServerTest, AStreamThatGathersIsGivenUp) {
  HttpServerOptions options = Loopback();
  options.max_unsent_stream_bytes = 1 << 20;
  Held held;
  const auto server = StartServer(options, held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  const auto responder = held.Take();
  Flag gone;
  responder->OnDisconnect([&] { gone.Set(true); });
  responder->StartStream("text/plain");
  responder->Write(std::string(64 << 20, 'x'));  // one piece alone may be as large as it likes
  client.ReadUntil("xxx");
  responder->Write(std::string(2 << 20, 'x'));  // waits behind it
  responder->Write("x");
  gone.Wait(true);
}

TEST(HttpServerTest, WhatAllClientsHaveNotReadIsBounded) {
  HttpServerOptions options = Loopback();
  options.max_unsent_bytes = 96 << 20;
  Held held;
  const auto server = StartServer(options, held.Handler());
  HttpClient first(server->address().port);
  HttpClient second(server->address().port);
  first.Send("GET", "/");
  held.Take()->Send(Text(std::string(64 << 20, 'x')));
  ASSERT_NE(first.ReadUntil("xxx"), "");
  second.Send("GET", "/");
  held.Take()->Send(Text(std::string(64 << 20, 'x')));
  EXPECT_TRUE(second.AtEnd());
  ASSERT_TRUE(first.Skip((64 << 20) - 3));
  // What was read is room for others.
  HttpClient third(server->address().port);
  third.Send("GET", "/");
  held.Take()->Send(Text(std::string(64 << 20, 'x')));
  ASSERT_NE(third.ReadUntil("\r\n\r\n"), "");
  EXPECT_TRUE(third.Skip(64 << 20));
}

// The whole answer takes longer than the server waits for one sign of life.
TEST(HttpServerTest, ClientThatReadsSlowlyIsServed) {
  HttpServerOptions options = Loopback();
  options.write_timeout = absl::Seconds(1);
  const size_t body_bytes = 64 << 20;
  const auto server = StartServer(options, [&](HttpRequest, std::shared_ptr<HttpResponder> responder) {
    responder->Send(Text(std::string(body_bytes, 'x')));
  });
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  ASSERT_NE(client.ReadUntil("\r\n\r\n"), "");
  for (size_t left = body_bytes; left > 0;) {
    const size_t piece = std::min<size_t>(left, 4 << 20);
    ASSERT_TRUE(client.Skip(piece)) << left << " bytes were still to come";
    left -= piece;
    absl::SleepFor(absl::Milliseconds(100));
  }
}

TEST(HttpServerTest, TellsThatTheClientLeft) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  auto client = std::make_unique<HttpClient>(server->address().port);
  client->Send("GET", "/");
  const auto responder = held.Take();
  Flag gone;
  responder->OnDisconnect([&] { gone.Set(true); });
  client.reset();
  gone.Wait(true);
  Flag at_once;
  responder->OnDisconnect([&] { at_once.Set(true); });
  at_once.Wait(true);
}

TEST(HttpServerTest, ForgottenResponderClosesTheConnection) {
  const auto server = StartServer(Loopback(), [](HttpRequest, std::shared_ptr<HttpResponder>) {});
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, StreamsToHttp10WithoutChunks) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient client(server->address().port);
  client.SendRaw("GET / HTTP/1.0\r\n\r\n");
  const auto responder = held.Take();
  responder->StartStream("text/plain");
  responder->Write("one");
  responder->Write("two");
  responder->EndStream();
  const std::string all = client.ReadUntil("never");
  EXPECT_EQ(all.find("chunked"), std::string::npos);
  EXPECT_EQ(all.substr(all.find("\r\n\r\n") + 4), "onetwo");
}

TEST(HttpServerTest, ConnectionsAreBounded) {
  HttpServerOptions options = Loopback();
  options.max_connections = 2;
  const auto server = StartServer(options, Echo);
  HttpClient first(server->address().port);
  HttpClient second(server->address().port);
  EXPECT_EQ(first.Call("GET", "/").status, 200);
  EXPECT_EQ(second.Call("GET", "/").status, 200);
  HttpClient third(server->address().port);
  EXPECT_EQ(third.Read().status, 503);
  EXPECT_EQ(first.Call("GET", "/").status, 200);
}

TEST(HttpServerTest, DrainLetsAnAnswerFinish) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient idle(server->address().port);
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  const auto responder = held.Take();
  std::thread drain([&] { server->Drain(absl::InfiniteFuture()); });
  EXPECT_TRUE(idle.AtEnd());
  responder->Send(Text("late"));
  const auto response = client.Read();
  EXPECT_EQ(response.body, "late");
  EXPECT_EQ(response.Header("Connection"), "close");
  client.Close();
  drain.join();
  EXPECT_EQ(server->connections(), 0);
}

TEST(HttpServerTest, DrainDoesNotWaitForTheRestOfARequest) {
  HttpServerOptions options = Loopback();
  options.body_timeout = absl::Hours(1);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  std::thread drain([&] { server->Drain(absl::InfiniteFuture()); });
  EXPECT_EQ(client.Read().status, 408);
  client.Close();
  drain.join();
}

TEST(HttpServerTest, DrainEndsAtItsDeadline) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  auto responder = held.Take();
  Flag gone;
  responder->OnDisconnect([&] { gone.Set(true); });
  server->Drain(absl::Now());
  gone.Wait(true);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpServerTest, PortInUse) {
  const auto server = StartServer(Loopback(), Echo);
  HttpServerOptions options = Loopback();
  options.address = server->address();
  const auto second = HttpServer::Start(options, Echo, OpenAiErrorBody);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_NE(std::string(second.status().message()).find(server->address().ToString()), std::string::npos);
}

}  // namespace
}  // namespace moepool
