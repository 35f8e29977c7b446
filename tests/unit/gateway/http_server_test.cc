#include "gateway/http/http_server.h"

#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"
#include "tests/unit/gateway/http_server_testing.h"

namespace moepool {
namespace {

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

// An assertion of Beast's does not hold where the last chunk is the first and comes in pieces.
TEST(HttpServerTest, EmptyChunkedBodyInPieces) {
  const auto server = StartServer(Loopback(), Echo);
  for (const auto& pieces : {std::vector<std::string>{"0\r\n", "\r", "\n"}, {"0\r\n", "{"}}) {
    HttpClient client(server->address().port);
    client.SendRaw("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for (const std::string& piece : pieces) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));  // for the server to see it alone
      client.SendRaw(piece);
    }
    if (pieces.size() != 3) continue;
    EXPECT_EQ(client.Read().body, "POST /? ");
  }
  HttpClient client(server->address().port);
  client.SendRaw("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.Read().body, "GET /? ");
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
