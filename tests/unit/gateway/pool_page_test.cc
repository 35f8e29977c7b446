// The page at /, and the pool as GET /pool tells it.
#include <regex>
#include <set>

#include "gateway/http/page_files.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;
using testing::HasSubstr;
using testing::StartsWith;

TEST(PoolPageTest, ThePageMayLoadNothingFromElsewhere) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const auto page = client.Call("GET", "/");
  ASSERT_EQ(page.status, 200);
  EXPECT_EQ(page.Header("Content-Type"), "text/html; charset=utf-8");
  EXPECT_THAT(page.Header("Content-Security-Policy"), StartsWith("default-src 'self';"));
  EXPECT_EQ(page.Header("X-Content-Type-Options"), "nosniff");
  EXPECT_EQ(page.Header("Cache-Control"), "no-cache");
  EXPECT_THAT(page.body, StartsWith("<!doctype html>"));
  EXPECT_EQ(client.Call("HEAD", "/").status, 200);
  EXPECT_EQ(client.Call("POST", "/", "{}").status, 405);
}

TEST(PoolPageTest, EveryFileThatThePageNamesIsServed) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  std::set<std::string> wanted;
  const std::regex named(R"re((?:"|from "\.)(?:/page)?(/[a-z_]+\.(?:js|css|svg))")re");
  for (const PageFile& file : PageFiles()) {
    const std::string text(file.bytes);
    for (std::sregex_iterator it(text.begin(), text.end(), named), end; it != end; ++it) {
      wanted.insert("/page" + (*it)[1].str());
    }
  }
  std::set<std::string> etags;
  for (const std::string& path : wanted) {
    const auto answer = client.Call("GET", path);
    EXPECT_EQ(answer.status, 200) << path;
    EXPECT_FALSE(answer.body.empty()) << path;
    EXPECT_THAT(answer.Header("ETag"), testing::MatchesRegex("\"[0-9a-f]{32}\"")) << path;
    etags.insert(answer.Header("ETag"));
    client.Send("GET", path, "", "If-None-Match: " + answer.Header("ETag") + "\r\n");
    const auto known = client.Read();
    EXPECT_EQ(known.status, 304) << path;
    EXPECT_EQ(known.body, "") << path;
    const std::string type = answer.Header("Content-Type");
    EXPECT_EQ(type, path.ends_with(".js")    ? "text/javascript; charset=utf-8"
                    : path.ends_with(".css") ? "text/css; charset=utf-8"
                                             : "image/svg+xml");
  }
  // Nothing is carried that nobody asks for.
  EXPECT_EQ(wanted.size() + 1, PageFiles().size());
  EXPECT_EQ(etags.size(), wanted.size());
}

TEST(PoolPageTest, Pool) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  PoolInfo pool;
  pool.model = "test-model";
  pool.ready = true;
  pool.epoch = 9;
  pool.kv_blocks = 8;
  pool.kv_blocks_free = 3;
  pool.totals.decode_rows = 41;
  PoolWorkerInfo worker;
  worker.name = "not\xFFutf-8";
  worker.experts = "0-7";
  worker.round_trip_us = 12.5;
  pool.gpu = GpuReading();
  pool.gpu->name = "card";
  pool.gpu->uuid = "GPU-1";
  pool.gpu->memory_used_bytes = 5;
  pool.workers = {worker};
  const absl::Time before = absl::Now();
  gateway.trunk.SetPool(pool);
  gateway.watcher.Refresh();
  json body;
  do {
    const auto answer = client.Call("GET", "/pool");
    ASSERT_EQ(answer.status, 200);
    EXPECT_EQ(answer.Header("Cache-Control"), "no-store");
    body = answer.Json();
  } while (body["epoch"] != 9);
  EXPECT_EQ(body["kv_blocks_free"], 3);
  EXPECT_EQ(body["totals"]["decode_rows"], 41);
  ASSERT_EQ(body["workers"].size(), 1u);
  EXPECT_EQ(body["workers"][0]["experts"], "0-7");
  EXPECT_EQ(body["workers"][0]["round_trip_us"], 12.5);
  EXPECT_FALSE(body["workers"][0].contains("gpu"));
  EXPECT_EQ(body["gpu"], json::parse(R"({"name": "card", "uuid": "GPU-1", "memory_used_bytes": 5})"));
  EXPECT_THAT(body["workers"][0]["name"].get<std::string>(), StartsWith("not"));
  EXPECT_GE(body["unix_ms"].get<int64_t>(), absl::ToUnixMillis(before));
}

TEST(PoolPageTest, WithoutARouterThePoolIsUnavailableAndThePageIsThere) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  gateway.trunk.SetStatus(absl::UnavailableError("the router at nowhere does not answer"));
  gateway.watcher.Refresh();
  gateway.ready.Wait(false);
  const auto pool = client.Call("GET", "/pool");
  EXPECT_EQ(pool.status, 503);
  EXPECT_THAT(pool.Json()["error"]["message"].get<std::string>(), HasSubstr("nowhere"));
  EXPECT_EQ(client.Call("GET", "/").status, 200);
}

}  // namespace
}  // namespace moepool
