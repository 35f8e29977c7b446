#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "common/backend/backend.h"
#include "common/kernels/kernels.h"

namespace moepool {
namespace {

TEST(FactoryTest, AutoIsTheCpuWhereCudaIsNot) {
  const auto backend = MakeBackend({});
  ASSERT_TRUE(backend.ok()) << backend.status();
  EXPECT_EQ((*backend)->Name(), MakeBackend({.backend = "cuda"}).ok() ? "cuda" : "cpu");
  EXPECT_EQ((*MakeBackend({.backend = "cpu"}))->Name(), "cpu");
}

TEST(FactoryTest, MemoryOfADeviceNeedsOne) {
  BackendOptions options;
  options.backend = "cpu";
  options.device_memory_bytes = 12345;
  const absl::Status status = MakeBackend(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "device-memory 12345: the backend is cpu, which has no memory of a device");
}

TEST(FactoryTest, OnlyCudaHasKernelsApart) {
  const absl::Status status = MakeBackend({.backend = "cpu", .fused = false}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(status.message(), "no-fusion: the backend is cpu, which has no kernels apart");
}

TEST(FactoryTest, UnknownNamesAndThreadsAreInvalid) {
  for (const BackendOptions& options : {BackendOptions{"tpu", "auto", 0},
                                        {"cpu", "sse9", 0},
                                        {"cpu", "auto", -1},
                                        {.backend = "cpu", .device = -1},
                                        {"auto", "auto", 100000}}) {
    EXPECT_EQ(MakeBackend(options).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_NE(std::string(MakeBackend({"tpu", "auto", 0}).status().message()).find("tpu"), std::string::npos);
}

TEST(FactoryTest, IsaByName) {
  const std::pair<const char*, const KernelTable*> tables[] = {{"scalar", ScalarKernels()},
                                                               {"avx2", Avx2Kernels()},
                                                               {"avx512", Avx512Kernels()},
                                                               {"avx512vnni", Avx512VnniKernels()}};
  size_t available = 0;
  for (const auto& [name, table] : tables) {
    const absl::Status status = MakeBackend({"cpu", name, 1}).status();
    EXPECT_EQ(status.code(), table != nullptr ? absl::StatusCode::kOk : absl::StatusCode::kFailedPrecondition)
        << status;
    if (table == nullptr) continue;
    EXPECT_STREQ(table->name, name);
    ASSERT_LT(available, AvailableKernels().size());
    EXPECT_EQ(AvailableKernels()[available++], table);
  }
  EXPECT_EQ(available, AvailableKernels().size());
}

}  // namespace
}  // namespace moepool
