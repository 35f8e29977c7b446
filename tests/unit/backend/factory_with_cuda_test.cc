// The factory of a build with CUDA, on a machine with a GPU that will do and on one without.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "common/backend/backend.h"
#include "common/base/log.h"

namespace moepool {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(FactoryTest, CudaByNameIsThereOrSaysWhyNot) {
  const auto backend = MakeBackend({.backend = "cuda"});
  if (backend.ok()) {
    EXPECT_EQ((*backend)->Name(), "cuda");
    return;
  }
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  const std::string message(backend.status().message());
  EXPECT_THAT(message, StartsWith("backend cuda: "));
  EXPECT_THAT(message, AnyOf(HasSubstr("no CUDA driver is installed"), HasSubstr("driver is of version"),
                             HasSubstr("driver sees no GPU"), HasSubstr("driver does not start"),
                             HasSubstr("compute 8.0 is needed")));
}

TEST(FactoryTest, TheLogSaysWhatAutoTook) {
  testing::internal::CaptureStderr();
  const auto backend = MakeBackend({});
  const std::string log = testing::internal::GetCapturedStderr();
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_THAT(log, HasSubstr((*backend)->Name() == "cuda" ? "a GPU is used" : "no GPU is used")) << log;
  testing::internal::CaptureStderr();
  EXPECT_TRUE(MakeBackend({.backend = "cpu"}).ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// A number that no GPU has is an error wherever there are GPUs, for `auto` too.
TEST(FactoryTest, DeviceBeyondTheLast) {
  const auto backend = MakeBackend({.device = 1000});
  if (MakeBackend({.backend = "cuda"}).ok()) {
    EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(backend.status().message()), HasSubstr("device 1000"));
  } else {
    ASSERT_TRUE(backend.ok()) << backend.status();
    EXPECT_EQ((*backend)->Name(), "cpu");
  }
}

}  // namespace
}  // namespace moepool
