// Connections over their time: clients that are slow, leave, do not read or are too many, and the server's
// end.
#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "gateway/http/http_server.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"
#include "tests/unit/gateway/http_server_testing.h"

namespace moepool {
namespace {

TEST(HttpConnectionsTest, SlowHeaderTimesOut) {
  HttpServerOptions options = Loopback();
  options.header_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
  EXPECT_EQ(client.Read().status, 408);
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpConnectionsTest, SlowBodyTimesOut) {
  HttpServerOptions options = Loopback();
  options.body_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc");
  EXPECT_EQ(client.Read().status, 408);
}

TEST(HttpConnectionsTest, IdleConnectionIsClosed) {
  HttpServerOptions options = Loopback();
  options.idle_timeout = absl::Milliseconds(50);
  const auto server = StartServer(options, Echo);
  HttpClient client(server->address().port);
  EXPECT_TRUE(client.AtEnd());
}

// A stream under way to a client.
struct Streaming {
  explicit Streaming(const HttpServerOptions& options)
      : server(StartServer(options, held.Handler())), client(server->address().port) {
    client.Send("GET", "/");
    responder = held.Take();
    responder->OnDisconnect([this] { gone.Set(true); });
    responder->StartStream("text/plain");
  }

  Flag gone;  // the client is said to have left
  Held held;
  std::unique_ptr<HttpServer> server;
  HttpClient client;
  std::shared_ptr<HttpResponder> responder;
};

TEST(HttpConnectionsTest, ClientThatNeverReadsIsDropped) {
  HttpServerOptions options = Loopback();
  options.write_timeout = absl::Milliseconds(50);
  Streaming streaming(options);
  streaming.responder->Write(std::string(64 << 20, 'x'));
  streaming.gone.Wait(true);
}

// Nothing is generated more slowly for a client that reads slowly.
TEST(HttpConnectionsTest, AStreamThatGathersIsGivenUp) {
  UnreadBudget unread({.call_bytes = 1 << 20});
  HttpServerOptions options = Loopback();
  options.unread = &unread;
  Streaming streaming(options);
  streaming.responder->Write(std::string(64 << 20, 'x'));  // one piece alone may be as large as it likes
  streaming.client.ReadUntil("xxx");
  streaming.responder->Write(std::string(2 << 20, 'x'));  // waits behind it
  streaming.responder->Write("x");
  streaming.gone.Wait(true);
}

TEST(HttpConnectionsTest, WhatAllClientsHaveNotReadIsBounded) {
  UnreadBudget unread({.bytes = 96 << 20});
  HttpServerOptions options = Loopback();
  options.unread = &unread;
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

TEST(HttpConnectionsTest, WhatIsLeftUnreadElsewhereCountsToo) {
  constexpr size_t kBytes = 64 << 20;
  UnreadBudget unread({.call_bytes = kBytes, .bytes = kBytes});
  UnreadBudget::Share elsewhere(&unread);
  HttpServerOptions options = Loopback();
  options.unread = &unread;
  Held held;
  const auto server = StartServer(options, held.Handler());
  ASSERT_TRUE(elsewhere.Add(kBytes));
  HttpClient first(server->address().port);
  first.Send("GET", "/");
  held.Take()->Send(Text(std::string(1 << 20, 'x')));
  EXPECT_EQ(first.Read().status, 0);
  elsewhere.Remove(kBytes);
  HttpClient second(server->address().port);
  second.Send("GET", "/");
  held.Take()->Send(Text(std::string(kBytes - 1000, 'x')));
  ASSERT_NE(second.ReadUntil("\r\n\r\n"), "");
  ASSERT_TRUE(elsewhere.Add(1));
  EXPECT_FALSE(elsewhere.Add(kBytes - 1));
}

// The whole answer takes longer than the server waits for one sign of life.
TEST(HttpConnectionsTest, ClientThatReadsSlowlyIsServed) {
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

// The same of a stream, which is made long before it is read.
TEST(HttpConnectionsTest, AStreamThatIsReadSlowlyEndsWhole) {
  constexpr int kPieces = 15;
  HttpServerOptions options = Loopback();
  options.write_timeout = absl::Seconds(1);
  Streaming streaming(options);
  for (int i = 0; i < kPieces; ++i) {
    streaming.responder->Write(std::string(1 << 20, static_cast<char>('a' + i)));
  }
  streaming.responder->EndStream();
  ASSERT_NE(streaming.client.ReadUntil("\r\n\r\n"), "");
  for (int i = 0; i < kPieces; ++i) {
    EXPECT_EQ(streaming.client.ReadUntil("\r\n"), "100000\r\n");
    EXPECT_EQ(streaming.client.ReadBytes(1 << 20), std::string(1 << 20, static_cast<char>('a' + i)));
    EXPECT_EQ(streaming.client.ReadUntil("\r\n"), "\r\n");
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_EQ(streaming.client.ReadUntil("\r\n\r\n"), "0\r\n\r\n");
}

TEST(HttpConnectionsTest, TellsThatTheClientLeft) {
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

// As `nc -N` does. Nothing tells it from one that leaves, but what is answered in spite of that arrives.
TEST(HttpConnectionsTest, ClientThatEndsItsSideCountsAsLeavingAndIsAnswered) {
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  client.EndSending();
  const auto responder = held.Take();
  Flag gone;
  responder->OnDisconnect([&] { gone.Set(true); });
  gone.Wait(true);
  Flag at_once;
  responder->OnDisconnect([&] { at_once.Set(true); });
  at_once.Wait(true);
  responder->Send(Text("late"));
  const auto response = client.Read();
  EXPECT_EQ(response.body, "late");
  EXPECT_EQ(response.Header("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpConnectionsTest, WhatIsMadeReachesAClientThatEndsItsSide) {
  constexpr size_t kBytes = 64 << 20;
  Held held;
  const auto server = StartServer(Loopback(), held.Handler());
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  held.Take()->Send(Text(std::string(kBytes, 'x')));
  ASSERT_NE(client.ReadUntil("\r\n\r\n"), "");
  client.EndSending();
  EXPECT_TRUE(client.Skip(kBytes));
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpConnectionsTest, ForgottenResponderClosesTheConnection) {
  const auto server = StartServer(Loopback(), [](HttpRequest, std::shared_ptr<HttpResponder>) {});
  HttpClient client(server->address().port);
  client.Send("GET", "/");
  EXPECT_TRUE(client.AtEnd());
}

TEST(HttpConnectionsTest, ConnectionsInUseKeepOthersOut) {
  HttpServerOptions options = Loopback();
  options.max_connections = 2;
  std::atomic<int> refused{0};
  options.on_answer = [&](const HttpRequest& request, int status) {
    if (status == 503 && request.path.empty()) ++refused;
  };
  Held held;
  const auto server = StartServer(options, held.Handler());
  HttpClient first(server->address().port);
  HttpClient second(server->address().port);
  first.Send("GET", "/");
  const auto responder = held.Take();
  second.SendRaw("GET / HTTP/1.1\r\nHo");  // half a request
  HttpClient third(server->address().port);
  const auto response = third.Read();
  EXPECT_EQ(response.status, 503);
  EXPECT_EQ(response.Header("Retry-After"), "1");
  EXPECT_EQ(response.Header("X-Request-Id").substr(0, 4), "req-");
  EXPECT_TRUE(response.Json().contains("error"));
  EXPECT_TRUE(third.AtEnd());
  EXPECT_EQ(refused.load(), 1);
  responder->Send(Text("first"));
  EXPECT_EQ(first.Read().body, "first");
  second.SendRaw("st: x\r\n\r\n");
  held.Take()->Send(Text("second"));
  EXPECT_EQ(second.Read().body, "second");
}

TEST(HttpConnectionsTest, TheLongestIdleConnectionMakesPlace) {
  HttpServerOptions options = Loopback();
  options.max_connections = 3;
  options.threads = 1;  // the connections become idle in order
  const auto server = StartServer(options, Echo);
  HttpClient first(server->address().port);  // has never asked
  HttpClient second(server->address().port);
  HttpClient third(server->address().port);
  for (HttpClient* client : {&second, &third, &second}) EXPECT_EQ(client->Call("GET", "/").status, 200);
  HttpClient fourth(server->address().port);
  EXPECT_EQ(fourth.Call("GET", "/").status, 200);
  EXPECT_TRUE(first.AtEnd());
  HttpClient fifth(server->address().port);
  EXPECT_EQ(fifth.Call("GET", "/").status, 200);
  EXPECT_TRUE(third.AtEnd());
  for (HttpClient* client : {&second, &fourth, &fifth}) EXPECT_EQ(client->Call("GET", "/").status, 200);
}

TEST(HttpConnectionsTest, DrainLetsAnAnswerFinish) {
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

TEST(HttpConnectionsTest, DrainDoesNotWaitForTheRestOfARequest) {
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

TEST(HttpConnectionsTest, DrainEndsAtItsDeadline) {
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

}  // namespace
}  // namespace moepool
