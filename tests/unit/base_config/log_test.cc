#include "common/base/log.h"

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

TEST(LogTest, FieldsKeepTheirTypes) {
  const std::string text = "quote \" back\\slash\nline";
  const std::string line = FormatLogLine(
      "t", LogLevel::kWarning, "router", text,
      {{"yes", true}, {"int", -3}, {"big", ~uint64_t{0}}, {"real", 0.5}, {"chars", "c"}, {"text", text}});
  EXPECT_EQ(line.find('\n'), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(line), nlohmann::json({{"time", "t"},
                                                         {"level", "warning"},
                                                         {"process", "router"},
                                                         {"message", text},
                                                         {"yes", true},
                                                         {"int", -3},
                                                         {"big", ~uint64_t{0}},
                                                         {"real", 0.5},
                                                         {"chars", "c"},
                                                         {"text", text}}));
}

TEST(LogTest, InvalidUtf8IsReplaced) {
  const std::string line = FormatLogLine("t", LogLevel::kInfo, "p", "\xff", {});
  EXPECT_EQ(nlohmann::json::parse(line)["message"], "\xEF\xBF\xBD");
}

TEST(LogTest, WritesLinesOnStderrFromTheLevelUp) {
  InitLog("test", LogLevel::kInfo);
  testing::internal::CaptureStderr();
  Log(LogLevel::kDebug, "hidden");
  Log(LogLevel::kInfo, "shown", {{"n", 1}});
  const nlohmann::json line = nlohmann::json::parse(testing::internal::GetCapturedStderr());
  EXPECT_EQ(line["message"], "shown");
  EXPECT_EQ(line["process"], "test");
  EXPECT_EQ(line["n"], 1);
  EXPECT_EQ(line["time"].get<std::string>().size(), std::string("2024-01-01T00:00:00.000000Z").size());
}

TEST(LogTest, Levels) {
  LogLevel level = LogLevel::kError;
  EXPECT_TRUE(ParseLogLevel("debug", &level));
  EXPECT_EQ(level, LogLevel::kDebug);
  EXPECT_FALSE(ParseLogLevel("loud", &level));
}

TEST(LogTest, ReadyIsOneLineOnStdout) {
  testing::internal::CaptureStdout();
  PrintReady({{"ready", true}, {"address", "127.0.0.1:1"}, {"model", "not UTF-8: \xff"}});
  const std::string line = testing::internal::GetCapturedStdout();
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(nlohmann::json::parse(line)["address"], "127.0.0.1:1");
}

}  // namespace
}  // namespace moepool
