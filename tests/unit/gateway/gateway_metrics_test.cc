// The gateway's metrics by their names in /metrics, as requests go by.
#include <map>
#include <sstream>

#include "gtest/gtest.h"
#include "tests/unit/gateway/gateway_testing.h"

namespace moepool {
namespace {

using nlohmann::json;

// Values by name and labels, as they are written.
std::map<std::string, double> Read(const Metrics& metrics) {
  std::map<std::string, double> values;
  std::istringstream text(metrics.Expose());
  for (std::string line; std::getline(text, line);) {
    const size_t space = line.rfind(' ');
    if (!line.empty() && line[0] != '#') values[line.substr(0, space)] = std::stod(line.substr(space + 1));
  }
  return values;
}

TEST(GatewayMetricsTest, MoveAsARequestGoesBy) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const std::map<std::string, double> before = Read(gateway.metrics);
  for (const char* name : {"moepool_num_requests_running", "moepool_num_requests_waiting",
                           "moepool_request_success_total{finished_reason=\"stop\"}",
                           "moepool_time_to_first_token_seconds_count", "moepool_prompt_tokens_total"}) {
    ASSERT_TRUE(before.contains(name)) << name;
    EXPECT_EQ(before.at(name), 0) << name;
  }
  client.Send("POST", "/infer", json({{"prompt", "hi"}, {"raw", true}, {"stream", true}}).dump());
  const auto call = gateway.trunk.WaitCall(0);
  EXPECT_EQ(Read(gateway.metrics).at("moepool_num_requests_waiting"), 1);
  call->SendIds(Ids("abc"));
  client.ReadUntil("abc");
  std::map<std::string, double> now = Read(gateway.metrics);
  EXPECT_EQ(now.at("moepool_num_requests_waiting"), 0);
  EXPECT_EQ(now.at("moepool_num_requests_running"), 1);
  EXPECT_EQ(now.at("moepool_time_to_first_token_seconds_count"), 1);
  EXPECT_EQ(now.at("moepool_generation_tokens_total"), 3);
  call->SendIds(Ids("de"));
  call->Send(LastUpdate(FinishReason::kStop));
  client.ReadUntil("[DONE]");
  now = Read(gateway.metrics);
  EXPECT_EQ(now.at("moepool_num_requests_running"), 0);
  EXPECT_EQ(now.at("moepool_request_success_total{finished_reason=\"stop\"}"), 1);
  EXPECT_EQ(now.at("moepool_request_success_total{finished_reason=\"length\"}"), 0);
  EXPECT_EQ(now.at("moepool_prompt_tokens_total"), 3);  // with BOS
  EXPECT_EQ(now.at("moepool_prompt_tokens_cached_total"), 3);
  EXPECT_EQ(now.at("moepool_generation_tokens_total"), 5);
  EXPECT_EQ(now.at("moepool_inter_token_latency_seconds_count"), 2);
  EXPECT_EQ(now.at("moepool_request_generation_tokens_sum"), 5);
  EXPECT_EQ(now.at("moepool_request_queue_time_seconds_sum"), 0.0025);
  for (const char* name :
       {"e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds",
        "request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens"}) {
    EXPECT_EQ(now.at(std::string("moepool_") + name + "_count"), 1) << name;
  }
}

TEST(GatewayMetricsTest, FailuresAreCountedByWhatEndedThem) {
  HttpGateway gateway;
  HttpClient client(gateway.port());
  const auto failures = [&](const char* reason) {
    return Read(gateway.metrics).at(std::string("moepool_request_failure_total{reason=\"") + reason + "\"}");
  };
  ASSERT_EQ(client.Call("POST", "/infer", json({{"prompt", std::string(200, 'x')}}).dump()).status, 400);
  EXPECT_EQ(failures("invalid"), 1);
  client.Send("POST", "/infer", json({{"prompt", "hi"}}).dump());
  gateway.trunk.WaitCall(0)->Fail(absl::UnavailableError("no holder"));
  EXPECT_EQ(client.Read().status, 503);
  EXPECT_EQ(failures("unavailable"), 1);
  client.Send("POST", "/infer", json({{"prompt", "hi"}}).dump());
  gateway.trunk.WaitCall(1)->Fail(absl::DataLossError("not finite"));
  EXPECT_EQ(client.Read().status, 500);
  EXPECT_EQ(failures("error"), 1);
  EXPECT_EQ(failures("invalid"), 1);
  EXPECT_EQ(Read(gateway.metrics).at("moepool_num_requests_waiting"), 0);
}

}  // namespace
}  // namespace moepool
