// The factory of a build without CUDA.
#include <gtest/gtest.h>

#include <string>

#include "common/backend/backend.h"

namespace moepool {
namespace {

TEST(FactoryTest, CudaIsRefusedByName) {
  const auto backend = MakeBackend({.backend = "cuda"});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(backend.status().message(), "backend cuda: this build has none (MOEPOOL_CUDA)");
}

TEST(FactoryTest, NobodyIsToldOfTheGpuThatABuildCannotUse) {
  testing::internal::CaptureStderr();
  EXPECT_TRUE(MakeBackend({}).ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

}  // namespace
}  // namespace moepool
