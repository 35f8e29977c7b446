#include "common/base/traceparent.h"

#include <string>

#include "gtest/gtest.h"

namespace moepool {
namespace {

TEST(TraceparentTest, TheTraceIdOfAHeader) {
  const std::string trace = "0af7651916cd43dd8448eb211c80319c";
  const std::string parent = "b7ad6b7169203331";
  EXPECT_EQ(TraceIdOf("00-" + trace + "-" + parent + "-01"), trace);
  EXPECT_EQ(TraceIdOf("cc-" + trace + "-" + parent + "-00-what comes later"), trace);
  for (const std::string& bad :
       {std::string(), "00-" + trace + "-" + parent, "00-" + trace + "-" + parent + "-01-more",
        "00-" + trace + "-" + parent + "-01 ", "ff-" + trace + "-" + parent + "-01",
        "cc-" + trace + "-" + parent + "-00.later", "00_" + trace + "-" + parent + "-01",
        "00-" + std::string(32, '0') + "-" + parent + "-01", "00-" + trace + "-0000000000000000-01",
        "00-" + std::string(32, 'A') + "-" + parent + "-01", "00-" + trace + "-" + parent + "-0g",
        std::string(55, '-')}) {
    EXPECT_EQ(TraceIdOf(bad), "") << bad;
    EXPECT_FALSE(IsTraceparent(bad)) << bad;
  }
}

TEST(TraceparentTest, OnlyWhatIsBoundedIsPassedOn) {
  const std::string header = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  EXPECT_TRUE(IsTraceparent(header));
  EXPECT_FALSE(IsTraceparent("cc" + header.substr(2) + "-more"));
}

}  // namespace
}  // namespace moepool
