// The HTTP client and the protocols of `moepool bench serve`, against a server that sends what a test says.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tools/bench_server.h"
#include "tools/http_stream.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Time Patience() { return absl::Now() + absl::Seconds(60); }  // a bound against hanging

// Answers each connection's requests with the pieces that `answer` makes of a request's first line and body,
// each in a send of its own. Ends the connection after the first, or after `requests` of them.
class ScriptedServer {
 public:
  using Answer = std::function<std::vector<std::string>(const std::string& line, const std::string& body)>;

  explicit ScriptedServer(Answer answer, int requests = 1) : answer_(std::move(answer)), requests_(requests) {
    listener_ = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(listener_, 16), 0);
    socklen_t length = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~ScriptedServer() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  HostPort address() const { return {"127.0.0.1", port_}; }
  int connections() const { return connections_; }

 private:
  void Run() {
    for (int fd; (fd = accept(listener_, nullptr, nullptr)) >= 0; close(fd)) {
      ++connections_;
      for (int i = 0; i < requests_ && AnswerOne(fd); ++i) {
      }
    }
  }

  bool AnswerOne(int fd) {
    std::string request;
    size_t whole = std::string::npos;
    while (request.size() < whole) {
      char bytes[4096];
      const ssize_t size = recv(fd, bytes, sizeof(bytes), 0);
      if (size <= 0) break;
      request.append(bytes, static_cast<size_t>(size));
      const size_t end = request.find("\r\n\r\n");
      if (end == std::string::npos) continue;
      const size_t field = request.find("Content-Length: ");
      whole = end + 4 + (field < end ? std::stoul(request.substr(field + 16)) : 0);
    }
    const size_t body = request.find("\r\n\r\n");
    if (body == std::string::npos) return false;
    for (const std::string& piece :
         answer_(request.substr(0, request.find('\r')), request.substr(body + 4))) {
      if (send(fd, piece.data(), piece.size(), MSG_NOSIGNAL) < 0) return false;
    }
    return true;
  }

  const Answer answer_;
  const int requests_;
  std::atomic<int> connections_{0};
  int listener_ = -1;
  uint16_t port_ = 0;
  std::thread thread_;
};

std::string Plain(const std::string& body, int status = 200) {
  return "HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Length: " + std::to_string(body.size()) +
         "\r\n\r\n" + body;
}

constexpr char kStreamHead[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string Chunk(const std::string& bytes) {
  char size[32];
  std::snprintf(size, sizeof(size), "%zx\r\n", bytes.size());
  return size + bytes + "\r\n";
}

std::vector<std::string> EventStream(const std::vector<std::string>& events) {
  std::vector<std::string> pieces = {kStreamHead};
  for (const std::string& event : events) pieces.push_back(Chunk("data: " + event + "\n\n"));
  pieces.push_back("0\r\n\r\n");
  return pieces;
}

TEST(HttpClientTest, SendsAndReadsWholeBodies) {
  ScriptedServer server([](const std::string& line, const std::string& body) {
    return std::vector<std::string>{Plain(line + "|" + body)};
  });
  const auto posted = HttpClient(server.address()).Exchange("/a", "{\"b\":1}", Patience());
  ASSERT_TRUE(posted.ok()) << posted.status();
  EXPECT_EQ(posted->status, 200);
  EXPECT_EQ(posted->body, "POST /a HTTP/1.1|{\"b\":1}");
  const auto got = HttpClient(server.address()).Exchange("/c", "", Patience());
  ASSERT_TRUE(got.ok()) << got.status();
  EXPECT_EQ(got->body, "GET /c HTTP/1.1|");
}

TEST(HttpClientTest, KeepsAConnectionUntilTheServerEndsIt) {
  ScriptedServer server([](const std::string& line, const std::string&) { return std::vector{Plain(line)}; },
                        /*requests=*/3);
  {
    HttpClient client(server.address());
    for (int i = 0; i < 6; ++i) {
      const std::string path = "/" + std::to_string(i);
      const auto answer = client.Exchange(path, "", Patience());
      ASSERT_TRUE(answer.ok()) << i << ": " << answer.status();
      EXPECT_EQ(answer->body, "GET " + path + " HTTP/1.1");
    }
  }
  EXPECT_EQ(server.connections(), 2);
}

TEST(HttpClientTest, UndoesChunksHoweverTheyAreCut) {
  const std::string long_text(20'000, 'x');
  const std::string whole =
      std::string(kStreamHead) + Chunk("one") + Chunk(long_text) + Chunk("three") + "0\r\n\r\n";
  for (const size_t cut : {1, 7, 4096, 100'000}) {
    ScriptedServer server([&](const std::string&, const std::string&) {
      std::vector<std::string> pieces;
      for (size_t at = 0; at < whole.size(); at += cut) pieces.push_back(whole.substr(at, cut));
      return pieces;
    });
    std::string body;
    const auto answer =
        HttpClient(server.address()).Exchange("/", "{}", Patience(), [&](std::string_view bytes) {
          body += bytes;
        });
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(body, "one" + long_text + "three") << cut;
    EXPECT_EQ(answer->body, "");
  }
}

TEST(HttpClientTest, ABodyThatIsNotOkIsKept) {
  ScriptedServer server(
      [](const std::string&, const std::string&) { return std::vector<std::string>{Plain("busy", 429)}; });
  const auto answer =
      HttpClient(server.address()).Exchange("/", "{}", Patience(), [](std::string_view) { FAIL(); });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->status, 429);
  EXPECT_EQ(answer->body, "busy");
}

TEST(HttpClientTest, WhatGoesWrong) {
  for (const auto& [sent, code] : std::vector<std::pair<std::string, absl::StatusCode>>{
           {"", absl::StatusCode::kUnavailable},
           {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", absl::StatusCode::kUnavailable},
           {std::string(kStreamHead) + Chunk("x"), absl::StatusCode::kUnavailable},
           {"SSH-2.0-nothing of the kind\r\n\r\n", absl::StatusCode::kDataLoss},
           {std::string(kStreamHead) + "zz\r\n", absl::StatusCode::kDataLoss}}) {
    ScriptedServer server(
        [&, sent = sent](const std::string&, const std::string&) { return std::vector<std::string>{sent}; });
    EXPECT_EQ(HttpClient(server.address()).Exchange("/", "{}", Patience()).status().code(), code) << sent;
  }
  HostPort nobody;
  {
    ScriptedServer server([](const std::string&, const std::string&) { return std::vector<std::string>{}; });
    nobody = server.address();
  }
  EXPECT_EQ(HttpClient(nobody).Exchange("/", "{}", Patience()).status().code(),
            absl::StatusCode::kUnavailable);
}

TEST(EventLinesTest, DataFromBytesCutAnywhere) {
  const std::string bytes = "data: one\n\n: comment\nevent: x\ndata:two\r\n\ndata: \n\ndata: cut";
  for (size_t cut = 1; cut <= bytes.size(); ++cut) {
    std::vector<std::string> seen;
    EventLines lines([&](std::string_view data) { seen.emplace_back(data); });
    for (size_t at = 0; at < bytes.size(); at += cut) lines.Feed(std::string_view(bytes).substr(at, cut));
    EXPECT_THAT(seen, ElementsAre("one", "two", "")) << cut;
  }
}

absl::StatusOr<Generated> GenerateWith(const std::string& protocol, const std::vector<std::string>& events,
                                       std::string* body) {
  ScriptedServer server([&](const std::string& line, const std::string& sent) -> std::vector<std::string> {
    if (line == "GET /v1/models HTTP/1.1") return {Plain(R"({"data":[{"id":"m","meta":{"n_vocab":50}}]})")};
    *body = line.substr(0, line.rfind(' ')) + sent;
    return EventStream(events);
  });
  const auto client = MakeHttpBenchServer(protocol, server.address(), 0, Patience());
  if (!client.ok()) return client.status();
  BenchPrompt prompt;
  prompt.text = "abc";
  prompt.ids = {4, 5};
  return (*client)->Generate(prompt, 3, Patience());
}

TEST(ProtocolsTest, OfAGateway) {
  std::string body;
  const auto generated = GenerateWith(
      "moepool",
      {R"({"text":"a"})", R"({"text":"bc"})",
       R"({"text":"","finish_reason":"length","usage":{"prompt_tokens":2,"completion_tokens":3}})", "[DONE]"},
      &body);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_EQ(generated->events_s.size(), 2u);
  EXPECT_EQ(generated->tokens, 3);
  EXPECT_EQ(generated->prompt_tokens, 2);
  EXPECT_THAT(body, HasSubstr("POST /infer"));
  const auto sent = nlohmann::json::parse(body.substr(body.find('{')));
  EXPECT_EQ(sent["prompt"], "abc");
  EXPECT_EQ(sent["max_tokens"], 3);
  EXPECT_EQ(sent["ignore_eos"], true);
  EXPECT_EQ(sent["raw"], true);
}

TEST(ProtocolsTest, OfLlamaCppsServer) {
  std::string body;
  const auto generated = GenerateWith(
      "llama",
      {R"({"content":"a","stop":false})", R"({"content":"","stop":false})", R"({"content":"b","stop":false})",
       R"({"content":"","stop":true,"tokens_predicted":3,"tokens_evaluated":2})"},
      &body);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_EQ(generated->events_s.size(), 2u);
  EXPECT_EQ(generated->tokens, 3);
  EXPECT_EQ(generated->prompt_tokens, 2);
  const auto sent = nlohmann::json::parse(body.substr(body.find('{')));
  EXPECT_EQ(sent["prompt"], (std::vector<int>{4, 5}));
  EXPECT_EQ(sent["n_predict"], 3);
  EXPECT_EQ(sent["cache_prompt"], false);
}

TEST(ProtocolsTest, OfOpenAi) {
  std::string body;
  const auto generated =
      GenerateWith("openai",
                   {R"({"choices":[{"text":"a","finish_reason":null}],"usage":null})",
                    R"({"choices":[{"text":"b","finish_reason":"length"}]})",
                    R"({"choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3}})", "[DONE]"},
                   &body);
  ASSERT_TRUE(generated.ok()) << generated.status();
  EXPECT_EQ(generated->events_s.size(), 2u);
  EXPECT_EQ(generated->tokens, 3);
  EXPECT_EQ(nlohmann::json::parse(body.substr(body.find('{')))["model"], "m");
}

TEST(ProtocolsTest, ErrorsInTheStreamAreErrors) {
  std::string body;
  for (const char* event : {R"({"error":{"message":"no holder"}})", "not json", "[1]"}) {
    EXPECT_EQ(GenerateWith("llama", {R"({"content":"a"})", event}, &body).status().code(),
              absl::StatusCode::kUnavailable)
        << event;
  }
}

TEST(ProtocolsTest, AVocabularyThatNobodyNamesIsAsked) {
  ScriptedServer server([](const std::string&, const std::string&) {
    return std::vector<std::string>{Plain(R"({"data":[{"id":"m"}]})")};
  });
  EXPECT_EQ(MakeHttpBenchServer("openai", server.address(), 0, Patience()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(MakeHttpBenchServer("openai", server.address(), 9, Patience()).ok());
}

// A word has a token for every two letters begun, and the space before it is a part of it.
TEST(MoepoolPromptTest, HasExactlyTheTokensAskedFor) {
  ScriptedServer server([](const std::string&, const std::string& body) {
    const std::string text = nlohmann::json::parse(body)["text"];
    nlohmann::json ids = nlohmann::json::array({0});  // in front of every text
    int letters = 0;
    for (const char c : text) {
      letters = c == ' ' ? 0 : letters + 1;
      if (letters % 2 == 1) ids.push_back(c);
    }
    return std::vector<std::string>{Plain(nlohmann::json{{"ids", ids}}.dump())};
  });
  const auto client = MakeHttpBenchServer("moepool", server.address(), 0, Patience());
  ASSERT_TRUE(client.ok()) << client.status();
  std::mt19937_64 random(3);
  std::string last;
  for (const int tokens : {2, 3, 4, 5, 33, 128}) {
    const auto prompt = (*client)->MakePrompt(tokens, &random);
    ASSERT_TRUE(prompt.ok()) << tokens << ": " << prompt.status();
    int counted = 1;
    int letters = 0;
    for (const char c : prompt->text) {
      letters = c == ' ' ? 0 : letters + 1;
      counted += letters % 2;
    }
    EXPECT_EQ(counted, tokens) << prompt->text;
    EXPECT_NE(prompt->text, last);
    last = prompt->text;
  }
  const auto nothing = (*client)->MakePrompt(1, &random);
  ASSERT_TRUE(nothing.ok()) << nothing.status();
  EXPECT_EQ(nothing->text, "");
}

TEST(MoepoolPromptTest, FailsWhereNoTextHasSoManyTokens) {
  ScriptedServer server([](const std::string&, const std::string& body) {
    const std::string text = nlohmann::json::parse(body)["text"];
    return std::vector<std::string>{Plain(nlohmann::json{{"ids", std::vector<int>(2 * text.size())}}.dump())};
  });
  const auto client = MakeHttpBenchServer("moepool", server.address(), 0, Patience());
  ASSERT_TRUE(client.ok()) << client.status();
  std::mt19937_64 random(3);
  EXPECT_EQ((*client)->MakePrompt(7, &random).status().code(), absl::StatusCode::kFailedPrecondition);
}

}  // namespace
}  // namespace moepool
