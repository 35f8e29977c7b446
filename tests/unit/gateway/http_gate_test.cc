#include "gateway/http/http_gate.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <map>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

using testing::HasSubstr;
using testing::Not;

HttpRequest Request(const std::string& method, const std::string& path, HttpHeaders headers = {}) {
  HttpRequest request;
  request.method = method;
  request.path = path;
  request.headers = std::move(headers);
  return request;
}

std::map<std::string, std::string> Map(const HttpHeaders& headers) {
  return {headers.begin(), headers.end()};
}

class KeyedGateTest : public testing::Test {
 protected:
  KeyedGateTest() : path_(testing::TempDir() + "gate_keys." + std::to_string(getpid())) {
    made_ = *MakeApiKey("alice");
    std::ofstream(path_) << made_.line;
    keys_ = *ApiKeys::Load(path_);
  }
  ~KeyedGateTest() override { unlink(path_.c_str()); }
  int StatusOf(const HttpGate& gate, HttpRequest request) {
    const auto refusal = gate.Check(&request);
    return refusal.has_value() ? refusal->status : 200;
  }

  const std::string path_;
  NewApiKey made_;
  std::unique_ptr<ApiKeys> keys_;
};

TEST_F(KeyedGateTest, WhatIsOpenAndWhatIsNot) {
  const HttpGate gate({.keys = keys_.get()});
  for (const char* path : {"/", "/page/app.js", "/health", "/ready", "/openapi.json"}) {
    EXPECT_EQ(StatusOf(gate, Request("GET", path)), 200) << path;
    EXPECT_EQ(StatusOf(gate, Request("HEAD", path)), 200) << path;
    EXPECT_EQ(StatusOf(gate, Request("POST", path)), 401) << path;
  }
  for (const char* path : {"/metrics", "/pool", "/infer", "/v1/models", "/v1/chat/completions", "/page",
                           "/health/", "//", "/healthy", "/no/such/path"}) {
    EXPECT_EQ(StatusOf(gate, Request("GET", path)), 401) << path;
    EXPECT_EQ(StatusOf(gate, Request("OPTIONS", path)), 401) << path;
  }
  const HttpGate open_metrics({.keys = keys_.get(), .open_metrics = true});
  EXPECT_EQ(StatusOf(open_metrics, Request("GET", "/metrics")), 200);
  EXPECT_EQ(StatusOf(open_metrics, Request("GET", "/pool")), 401);
}

TEST_F(KeyedGateTest, TheKeysNameIsPassedOn) {
  const HttpGate gate({.keys = keys_.get()});
  HttpRequest request = Request("POST", "/infer", {{"authorization", "Bearer " + made_.key}});
  EXPECT_FALSE(gate.Check(&request).has_value());
  EXPECT_EQ(request.key_name, "alice");
}

TEST_F(KeyedGateTest, RefusalsAreInOpenAisShape) {
  const HttpGate gate({.keys = keys_.get()});
  HttpRequest without = Request("POST", "/infer");
  const auto missing = gate.Check(&without);
  ASSERT_TRUE(missing.has_value());
  EXPECT_EQ(missing->status, 401);
  EXPECT_EQ(Map(missing->headers).at("WWW-Authenticate"), "Bearer realm=\"moepool\"");
  HttpRequest wrong = Request("POST", "/infer", {{"Authorization", "Bearer mp-swordfish"}});
  const auto refused = gate.Check(&wrong);
  ASSERT_TRUE(refused.has_value());
  EXPECT_THAT(Map(refused->headers).at("WWW-Authenticate"), HasSubstr("error=\"invalid_token\""));
  EXPECT_THAT(refused->body, Not(HasSubstr("swordfish")));
  const auto error = nlohmann::json::parse(refused->body)["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["code"], "invalid_api_key");
  EXPECT_TRUE(error["param"].is_null());
  EXPECT_EQ(wrong.key_name, "");
}

TEST_F(KeyedGateTest, APreflightNeedsNoKey) {
  const HttpGate gate({.keys = keys_.get(), .cors_origins = {"https://chat.example.org"}});
  const HttpHeaders asked = {{"Origin", "https://chat.example.org"},
                             {"Access-Control-Request-Method", "POST"},
                             {"Access-Control-Request-Headers", "authorization,content-type"}};
  HttpRequest preflight = Request("OPTIONS", "/v1/chat/completions", asked);
  const auto answer = gate.Check(&preflight);
  ASSERT_TRUE(answer.has_value());
  EXPECT_EQ(answer->status, 204);
  EXPECT_THAT(
      Map(answer->headers),
      testing::ElementsAre(testing::Pair("Access-Control-Allow-Headers", "authorization,content-type"),
                           testing::Pair("Access-Control-Allow-Methods", "GET, HEAD, POST"),
                           testing::Pair("Access-Control-Max-Age", "600")));
  EXPECT_THAT(
      Map(gate.AnswerHeaders(preflight)),
      testing::UnorderedElementsAre(testing::Pair("Access-Control-Allow-Origin", "https://chat.example.org"),
                                    testing::Pair("Access-Control-Expose-Headers", HasSubstr("Retry-After")),
                                    testing::Pair("Vary", "Origin")));
  // Another origin, or none, or no preflight.
  HttpHeaders other = asked;
  other[0].second = "https://chat.example.org.evil.example";
  EXPECT_EQ(StatusOf(gate, Request("OPTIONS", "/infer", other)), 401);
  EXPECT_EQ(StatusOf(gate, Request("OPTIONS", "/infer", {asked[0]})), 401);
  EXPECT_EQ(StatusOf(gate, Request("POST", "/infer", asked)), 401);
}

TEST(HttpGateTest, CorsIsOffByDefault) {
  const HttpGate gate({});
  HttpRequest preflight =
      Request("OPTIONS", "/infer",
              {{"Origin", "https://chat.example.org"}, {"Access-Control-Request-Method", "POST"}});
  EXPECT_FALSE(gate.Check(&preflight).has_value());
  EXPECT_TRUE(gate.AnswerHeaders(preflight).empty());
}

TEST(HttpGateTest, Origins) {
  const HttpGate two({.cors_origins = {"https://a.example", "http://localhost:3000"}});
  EXPECT_EQ(Map(two.AnswerHeaders(Request("GET", "/", {{"Origin", "http://localhost:3000"}})))
                .at("Access-Control-Allow-Origin"),
            "http://localhost:3000");
  for (const char* other : {"http://a.example", "https://A.example", "https://a.example:443", "null", ""}) {
    EXPECT_THAT(Map(two.AnswerHeaders(Request("GET", "/", {{"Origin", other}}))),
                testing::ElementsAre(testing::Pair("Vary", "Origin")))
        << other;
  }
  const HttpGate all({.cors_origins = {"*"}});
  EXPECT_EQ(Map(all.AnswerHeaders(Request("GET", "/", {{"Origin", "https://any.example"}})))
                .at("Access-Control-Allow-Origin"),
            "*");
  EXPECT_TRUE(all.AnswerHeaders(Request("GET", "/")).empty());
}

TEST(HttpGateTest, RequestedHeadersThatAreNoneAreNotGivenBack) {
  const HttpGate gate({.cors_origins = {"*"}});
  for (const std::string& text :
       {std::string("a\r\nSet-Cookie: b"), std::string("a:b"), std::string(3000, 'a')}) {
    HttpRequest preflight = Request("OPTIONS", "/infer",
                                    {{"Origin", "https://a.example"},
                                     {"Access-Control-Request-Method", "POST"},
                                     {"Access-Control-Request-Headers", text}});
    EXPECT_EQ(Map(gate.Check(&preflight)->headers).count("Access-Control-Allow-Headers"), 0u);
  }
}

TEST(HttpGateTest, Hosts) {
  const HttpGate gate({.check_host = true, .allowed_hosts = {"pool.example.org"}});
  for (const char* host :
       {"localhost", "localhost:8000", "LOCALHOST:8000", "app.localhost:1", "127.0.0.1:8000", "10.1.2.3",
        "[::1]:8000", "[::1]", "pool.example.org", "Pool.Example.Org:8000"}) {
    HttpRequest request = Request("GET", "/health", {{"Host", host}});
    EXPECT_FALSE(gate.Check(&request).has_value()) << host;
  }
  for (const char* host : {"evil.example", "evil.example:8000", "localhost.evil.example",
                           "127.0.0.1.evil.example:80", "evilpool.example.org", "[evil", "xlocalhost"}) {
    HttpRequest request = Request("GET", "/health", {{"Host", host}});
    const auto refusal = gate.Check(&request);
    ASSERT_TRUE(refusal.has_value()) << host;
    EXPECT_EQ(refusal->status, 421);
    EXPECT_THAT(refusal->body, HasSubstr("--allowed-hosts"));
  }
  const HttpGate unchecked({.allowed_hosts = {"pool.example.org"}});
  HttpRequest request = Request("GET", "/health", {{"Host", "evil.example"}});
  EXPECT_FALSE(unchecked.Check(&request).has_value());
}

TEST(ValidateOriginTest, OriginsAsBrowsersSendThem) {
  for (const char* good :
       {"*", "https://chat.example.org", "http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"}) {
    EXPECT_TRUE(ValidateOrigin(good).ok()) << good;
  }
  for (const char* bad : {"", "chat.example.org", "https://", "https://chat.example.org/",
                          "https://Chat.example.org", "ftp://a", "https://a:b", "https://a:0",
                          "https://a:70000", "https://a b", "null", "https://*.example.org"}) {
    EXPECT_EQ(ValidateOrigin(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

}  // namespace
}  // namespace moepool
