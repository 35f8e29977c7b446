#include "common/base/config.h"

#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using testing::HasSubstr;

class ConfigTest : public testing::Test {
 protected:
  ~ConfigTest() override {
    for (const auto& [name, value] : environment_) unsetenv(name.c_str());
  }
  void SetEnv(const std::string& name, const std::string& value) {
    environment_[name] = value;
    setenv(name.c_str(), value.c_str(), 1);
  }
  std::string WriteFile(const std::string& text) {
    const std::string path = testing::TempDir() + "config_test_" +
                             testing::UnitTest::GetInstance()->current_test_info()->name() + ".yaml";
    std::ofstream(path) << text;
    return path;
  }
  // -1: go on.
  int Parse(std::vector<const char*> args) {
    CLI::App app("test", "prog");
    app.add_option("--max-tokens", max_tokens_)->check(CLI::Range(1, 100));
    app.add_option("--name", name_);
    app.add_option("--peer", peers_);
    app.add_flag("--insecure", insecure_);
    AddOffFlag(&app, "--no-graphs", &graphs_, "");
    CLI::App* const serve = app.add_subcommand("serve");
    serve->add_option("--model", model_)->required();
    args.insert(args.begin(), "prog");
    std::ostringstream out, err;
    const std::optional<int> code = ParseFlags(&app, static_cast<int>(args.size()), args.data(), out, err);
    out_ = out.str();
    err_ = err.str();
    return code.value_or(-1);
  }

  int max_tokens_ = 7;
  std::string name_ = "default";
  std::vector<std::string> peers_;
  bool insecure_ = false;
  bool graphs_ = true;
  std::string model_;
  std::string out_, err_;
  std::map<std::string, std::string> environment_;
};

TEST_F(ConfigTest, FlagBeforeEnvironmentBeforeFileBeforeDefault) {
  const std::string path = WriteFile("max-tokens: 20\nname: file\ninsecure: true\n");
  EXPECT_EQ(Parse({}), -1);
  EXPECT_EQ(max_tokens_, 7);
  EXPECT_EQ(Parse({"--config", path.c_str()}), -1) << err_;
  EXPECT_EQ(max_tokens_, 20);
  EXPECT_EQ(name_, "file");
  EXPECT_TRUE(insecure_);
  SetEnv("MOEPOOL_MAX_TOKENS", "30");
  EXPECT_EQ(Parse({"--config", path.c_str()}), -1);
  EXPECT_EQ(max_tokens_, 30);
  EXPECT_EQ(Parse({"--config", path.c_str(), "--max-tokens", "40"}), -1);
  EXPECT_EQ(max_tokens_, 40);
}

TEST_F(ConfigTest, AFlagSwitchesOffFromAnywhere) {
  const auto graphs = [this](std::vector<const char*> args) {
    graphs_ = true;
    EXPECT_EQ(Parse(std::move(args)), -1) << err_;
    return graphs_;
  };
  EXPECT_TRUE(graphs({}));
  EXPECT_FALSE(graphs({"--no-graphs"}));
  for (const bool off : {false, true}) {
    const std::string path = WriteFile(off ? "no-graphs: true\n" : "no-graphs: false\n");
    EXPECT_EQ(graphs({"--config", path.c_str()}), !off);
    SetEnv("MOEPOOL_NO_GRAPHS", off ? "true" : "false");
    EXPECT_EQ(graphs({}), !off);
    SetEnv("MOEPOOL_NO_GRAPHS", "");
  }
}

TEST_F(ConfigTest, FileFromTheEnvironmentWithUnderscoresAndLists) {
  SetEnv("MOEPOOL_CONFIG", WriteFile("max_tokens: 21\npeer: [a:1, b:2]\n"));
  EXPECT_EQ(Parse({}), -1) << err_;
  EXPECT_EQ(max_tokens_, 21);
  EXPECT_THAT(peers_, testing::ElementsAre("a:1", "b:2"));
}

TEST_F(ConfigTest, EmptyFileAndEmptyVariableSetNothing) {
  SetEnv("MOEPOOL_NAME", "");
  const std::string path = WriteFile("# nothing\n");
  EXPECT_EQ(Parse({"--config", path.c_str()}), -1) << err_;
  EXPECT_EQ(name_, "default");
}

TEST_F(ConfigTest, VersionAndHelp) {
  EXPECT_EQ(Parse({"--version"}), 0);
  EXPECT_EQ(out_, "prog 0.1.0\n");
  EXPECT_EQ(Parse({"--help"}), 0);
  EXPECT_THAT(out_, HasSubstr("--max-tokens"));
  EXPECT_THAT(out_, HasSubstr("--config"));
}

TEST_F(ConfigTest, RequiredOptionMayComeFromAnywhere) {
  EXPECT_EQ(Parse({"serve"}), 2);
  EXPECT_EQ(err_, "prog: --model is required\n");
  SetEnv("MOEPOOL_MODEL", "m.gguf");
  EXPECT_EQ(Parse({"serve"}), -1) << err_;
  EXPECT_EQ(model_, "m.gguf");
  EXPECT_EQ(Parse({}), -1) << err_;
}

TEST_F(ConfigTest, ErrorsAreOneLineThatNamesTheSetting) {
  const struct {
    std::string file;
    std::vector<const char*> args;
    const char* named;
  } cases[] = {{"", {"--max-token", "3"}, "--max-token"},
               {"", {"--max-tokens", "many"}, "--max-tokens"},
               {"", {"--max-tokens", "101"}, "--max-tokens"},
               {"", {"stray"}, "stray"},
               {"max-token: 3", {}, "'max-token'"},
               {"config: a", {}, "'config'"},
               {"max-tokens: many", {}, "max-tokens"},
               {"max-tokens: 0", {}, "max-tokens"},
               {"max-tokens: [1, 2]", {}, "2 values"},
               {"max-tokens: {a: 1}", {}, "max-tokens"},
               {"max-tokens: 1\nmax_tokens: 2", {}, "twice"},
               {"- a", {}, "not a map"},
               {"name: 'open", {}, ":1: "}};
  for (const auto& c : cases) {
    std::vector<const char*> args = c.args;
    const std::string path = c.file.empty() ? "" : WriteFile(c.file);
    if (!path.empty()) args.insert(args.end(), {"--config", path.c_str()});
    EXPECT_EQ(Parse(args), 2) << c.file << testing::PrintToString(c.args);
    EXPECT_THAT(err_, HasSubstr(c.named));
    EXPECT_THAT(err_, testing::StartsWith("prog: "));
    EXPECT_EQ(std::count(err_.begin(), err_.end(), '\n'), 1) << err_;
  }
  EXPECT_EQ(Parse({"--config", "/no/such/file"}), 2);
  EXPECT_THAT(err_, HasSubstr("/no/such/file"));
  SetEnv("MOEPOOL_MAX_TOKENS", "x");
  EXPECT_EQ(Parse({}), 2);
  EXPECT_THAT(err_, HasSubstr("MOEPOOL_MAX_TOKENS"));
}

TEST(AddressTest, Parses) {
  EXPECT_EQ(ParseAddress("127.0.0.1:0")->ToString(), "127.0.0.1:0");
  EXPECT_EQ(ParseAddress("router-1.local:50052")->host, "router-1.local");
  EXPECT_EQ(ParseAddress("[::1]:65535")->host, "::1");
  EXPECT_EQ(ParseAddress("[::1]:65535")->ToString(), "[::1]:65535");
}

TEST(AddressTest, RefusesWithTheText) {
  for (const char* text : {"", "host", ":80", "host:", "host:-1", "host:65536", "host:99999999999", "host:8a",
                           "::1:80", "[::1]", "[x]:1", "[]:1", "ho st:1", "http://h:1", "h:+1"}) {
    const auto address = ParseAddress(text);
    ASSERT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr(std::string("'") + text + "'"));
  }
}

TEST(AddressTest, OnlyLoopbackUnlessInsecure) {
  for (const char* text : {"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"}) {
    EXPECT_TRUE(ParseListenAddress("address", text, false).ok()) << text;
  }
  for (const char* text : {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1", "127.0.0.1.example.org:1"}) {
    const auto address = ParseListenAddress("address", text, false);
    ASSERT_FALSE(address.ok()) << text;
    EXPECT_THAT(std::string(address.status().message()), HasSubstr("--address"));
    EXPECT_THAT(std::string(address.status().message()), HasSubstr("--insecure"));
    EXPECT_TRUE(ParseListenAddress("address", text, true).ok()) << text;
  }
}

}  // namespace
}  // namespace moepool
