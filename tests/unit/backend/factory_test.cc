#include <gtest/gtest.h>

#include <string>

#include "common/backend/backend.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

TEST(FactoryTest, AutoIsTheCpu) {
  const auto backend = MakeBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->Name(), "cpu");
}

TEST(FactoryTest, CudaIsRefusedByName) {
  const auto backend = MakeBackend({"cuda", "auto", 0});
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(backend.status().message(), "this build has no CUDA backend");
}

TEST(FactoryTest, UnknownNamesAndThreadsAreInvalid) {
  for (const BackendOptions& options : {BackendOptions{"tpu", "auto", 0},
                                        {"cpu", "sse9", 0},
                                        {"cpu", "auto", -1},
                                        {"auto", "auto", 100000}}) {
    EXPECT_EQ(MakeBackend(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_NE(std::string(MakeBackend({"tpu", "auto", 0}).status().message()).find("tpu"), std::string::npos);
}

TEST(FactoryTest, IsaByName) {
  EXPECT_TRUE(MakeBackend({"cpu", "scalar", 1}).ok());
  const absl::StatusCode expected =
      Avx2Kernels() != nullptr ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition;
  EXPECT_EQ(MakeBackend({"cpu", "avx2", 1}).status().code(), expected);
}

}  // namespace
}  // namespace moepool
