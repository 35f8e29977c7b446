#include "gateway/gateway_flags.h"

#include <unistd.h>

#include <fstream>

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

GatewayFlags Parse(std::vector<std::string> words) {
  CLI::App app;
  GatewayFlags flags;
  AddGatewayFlags(&app, &flags);
  std::reverse(words.begin(), words.end());
  app.parse(words);
  return flags;
}

std::string Refusal(const GatewayFlags& flags) {
  const auto options = ToGatewayOptions(flags);
  EXPECT_EQ(options.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(options.status().message());
}

class GatewayFlagsTest : public testing::Test {
 protected:
  GatewayFlagsTest() : path_(testing::TempDir() + "flags_keys." + std::to_string(getpid())) {
    std::ofstream(path_) << MakeApiKey("alice")->line;
  }
  ~GatewayFlagsTest() override { unlink(path_.c_str()); }
  const std::string path_;
};

TEST_F(GatewayFlagsTest, OthersReachNoAddressWithoutKeys) {
  EXPECT_TRUE(ToGatewayOptions(Parse({})).ok());
  for (const char* flag : {"--http-address", "--grpc-address"}) {
    const std::string refusal = Refusal(Parse({flag, "0.0.0.0:1"}));
    EXPECT_THAT(refusal, testing::StartsWith(std::string(flag) + ": 0.0.0.0:1 is not a loopback address"));
    EXPECT_THAT(refusal, testing::AllOf(HasSubstr("--api-key-file"), HasSubstr("moepool key"),
                                        HasSubstr("--insecure")));
    EXPECT_TRUE(ToGatewayOptions(Parse({flag, "0.0.0.0:1", "--insecure"})).ok());
    const auto keyed = ToGatewayOptions(Parse({flag, "0.0.0.0:1", "--api-key-file", path_}));
    ASSERT_TRUE(keyed.ok()) << keyed.status();
    EXPECT_NE(keyed->keys, nullptr);
  }
}

TEST_F(GatewayFlagsTest, FilesOfKeysThatCannotBeUsed) {
  EXPECT_THAT(Refusal(Parse({"--api-key-file", path_ + ".none"})),
              testing::AllOf(HasSubstr("--api-key-file"), HasSubstr(path_ + ".none")));
  std::ofstream(path_) << "alice";
  EXPECT_THAT(Refusal(Parse({"--api-key-file", path_})), HasSubstr("line 1"));
}

TEST_F(GatewayFlagsTest, Lists) {
  const GatewayFlags flags =
      Parse({"--cors-origin", "https://a.example,http://b.example:3000", "--cors-origin", "https://c.example",
             "--allowed-hosts", "pool.example,other.example"});
  EXPECT_THAT(flags.cors_origins,
              testing::ElementsAre("https://a.example", "http://b.example:3000", "https://c.example"));
  const auto options = ToGatewayOptions(flags);
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->cors_origins, flags.cors_origins);
  EXPECT_THAT(options->allowed_hosts, testing::ElementsAre("pool.example", "other.example"));
  EXPECT_THAT(Refusal(Parse({"--cors-origin", "a.example"})), HasSubstr("--cors-origin: 'a.example'"));
}

TEST_F(GatewayFlagsTest, NamesOfTheModel) {
  EXPECT_THAT(Parse({"--served-model-name", "a,b", "--served-model-name", "c"}).served_model_names,
              testing::ElementsAre("a", "b", "c"));
  GatewayFlags flags;
  flags.served_model_names = {"a", ""};
  EXPECT_EQ(Refusal(flags), "--served-model-name: a name is empty");
}

TEST_F(GatewayFlagsTest, LimitsArriveWhereTheyHold) {
  const auto options = ToGatewayOptions(
      Parse({"--max-requests",       "7",    "--max-queue-requests", "6",   "--max-queue-tokens", "5000",
             "--max-connections",    "4",    "--max-streams",        "3",   "--max-header-bytes", "2048",
             "--max-body-bytes",     "4096", "--header-timeout",     "1.5", "--body-timeout",     "2.5",
             "--idle-timeout",       "3.5",  "--write-timeout",      "4.5", "--request-timeout",  "5.5",
             "--keepalive-interval", "6.5",  "--open-metrics"}));
  ASSERT_TRUE(options.ok());
  EXPECT_EQ(options->inference.max_requests, 7);
  EXPECT_EQ(options->inference.max_queue_requests, 6);
  EXPECT_EQ(options->inference.max_queue_tokens, 5000);
  EXPECT_EQ(options->http.max_connections, 4);
  EXPECT_EQ(options->max_streams, 3);
  EXPECT_EQ(options->http.max_header_bytes, 2048u);
  EXPECT_EQ(options->http.max_body_bytes, 4096u);
  EXPECT_EQ(options->http.header_timeout, absl::Seconds(1.5));
  EXPECT_EQ(options->http.body_timeout, absl::Seconds(2.5));
  EXPECT_EQ(options->http.idle_timeout, absl::Seconds(3.5));
  EXPECT_EQ(options->http.write_timeout, absl::Seconds(4.5));
  EXPECT_EQ(options->inference.request_timeout, absl::Seconds(5.5));
  EXPECT_EQ(options->api.keepalive_interval, absl::Seconds(6.5));
  EXPECT_TRUE(options->open_metrics);
}

}  // namespace
}  // namespace moepool
