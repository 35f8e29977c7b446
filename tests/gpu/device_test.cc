// The device over the CUDA runtime, on the machine's GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/backend/cuda/cuda_device.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

class GpuDeviceTest : public ::testing::Test {
 protected:
  std::byte* Host(size_t bytes) { return device_->AllocateHost(bytes).value(); }
  const std::unique_ptr<Device> device_ = MakeCudaDevice(0).value();
};

TEST_F(GpuDeviceTest, SaysWhatItIs) {
  EXPECT_THAT(device_->Description(), HasSubstr(", compute "));
  const DeviceMemoryInfo memory = device_->Memory();
  EXPECT_GT(memory.free_bytes, 0u);
  EXPECT_GE(memory.total_bytes, memory.free_bytes);
  EXPECT_EQ(MakeCudaDevice(-1).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakeCudaDevice(1000).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(GpuDeviceTest, CopiesThereAndBackInOrder) {
  constexpr size_t kBytes = 100003;
  std::byte* const there = device_->Allocate(kBytes).value();
  std::byte* const twice = device_->Allocate(kBytes).value();
  std::byte* const host = Host(kBytes);
  std::byte* const back = Host(kBytes);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(there) % 256, 0u);
  for (size_t i = 0; i < kBytes; ++i) host[i] = static_cast<std::byte>(i * 7 % 251);
  device_->Zero(twice, kBytes);
  device_->Copy(there, host, kBytes);
  device_->Copy(twice + 1, there + 1, kBytes - 2);
  device_->Copy(back, twice, kBytes);
  device_->Copy(back, twice, 0);
  device_->Synchronize();
  host[0] = host[kBytes - 1] = std::byte{0};
  EXPECT_EQ(std::memcmp(host, back, kBytes), 0);
  device_->Free(there);
  device_->Free(twice);
  device_->Free(nullptr);
  device_->FreeHost(host);
  device_->FreeHost(back);
}

TEST_F(GpuDeviceTest, CopiesAsideWaitForTheStreamAndItForThem) {
  constexpr size_t kBytes = 64 << 20;
  std::byte* const a = device_->Allocate(kBytes).value();
  std::byte* const b = device_->Allocate(kBytes).value();
  std::byte* const host = Host(kBytes);
  std::byte* const back = Host(kBytes);
  for (int round = 1; round < 4; ++round) {
    std::memset(host, round, kBytes);
    device_->Zero(a, kBytes);
    device_->Copy(a, host, kBytes);
    device_->AsideAfterStream();
    device_->CopyAside(b, a, kBytes);
    device_->StreamAfterAside();
    device_->Zero(a, kBytes);
    device_->Copy(back, b, kBytes);
    device_->Synchronize();
    EXPECT_EQ(std::memcmp(host, back, kBytes), 0);
  }
  device_->CopyAside(a, host, kBytes);
  device_->Free(a);
  device_->Free(b);
  device_->FreeHost(host);
  device_->FreeHost(back);
}

// With the arguments of when it was recorded, on what lies there when it is launched; meanwhile other threads
// take memory and have their own work done.
TEST_F(GpuDeviceTest, AGraphIsWhatOneThreadRecorded) {
  constexpr int kCols = 64;
  constexpr size_t kBytes = kCols * sizeof(float);
  std::byte* const x = device_->Allocate(kBytes).value();
  std::byte* const codes = device_->Allocate(kBytes).value();
  std::byte* const host = Host(kBytes);
  std::byte* const back = Host(kBytes);
  std::memset(back, 9, kBytes);
  QuantizeArgs args;
  args.y.f32 = reinterpret_cast<float*>(x);
  args.y.q = reinterpret_cast<int8_t*>(codes);
  args.y.scale = reinterpret_cast<float*>(codes + kCols);
  args.rows = 1;
  args.cols = kCols;
  ASSERT_TRUE(device_->BeginGraph().ok());
  device_->Zero(codes, kBytes);
  device_->Kernels().quantize(args, device_->Stream());
  std::thread([&] {
    std::byte* const memory = device_->Allocate(kBytes).value();
    std::memset(host, 5, kBytes);
    device_->Copy(memory, host, kBytes);
    device_->Copy(back, memory, kBytes);
    device_->Synchronize();
    EXPECT_EQ(back[kBytes - 1], std::byte{5});
    device_->Free(memory);
  }).join();
  device_->Copy(back, codes, kCols);
  args = {};
  auto graph = device_->EndGraph();
  ASSERT_TRUE(graph.ok()) << graph.status();
  EXPECT_EQ((*graph)->pieces(), 3u);
  EXPECT_EQ(back[0], std::byte{5});  // nothing of it is done yet
  for (const float largest : {1.0f, -3.0f}) {
    auto* const values = reinterpret_cast<float*>(host);
    std::fill_n(values, kCols, largest / 127);
    values[0] = values[kCols - 1] = largest;
    device_->Copy(x, host, kBytes);
    (*graph)->Launch();
    device_->Synchronize();
    const auto* const quantized = reinterpret_cast<const int8_t*>(back);
    EXPECT_EQ(quantized[0], largest > 0 ? 127 : -127);
    EXPECT_EQ(quantized[1], largest > 0 ? 1 : -1);
    EXPECT_EQ(quantized[kCols - 1], quantized[0]);
  }
  (*graph)->Launch();
  graph->reset();  // what is queued is done
  device_->Free(x);
  device_->Free(codes);
  device_->FreeHost(host);
  device_->FreeHost(back);
}

TEST_F(GpuDeviceTest, MemoryItHasNotIsRefusedAndNothingIsBroken) {
  const uint64_t total = device_->Memory().total_bytes;
  const auto refused = device_->Allocate(total + 1);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()), HasSubstr(std::to_string(total + 1)));
  std::byte* const memory = device_->Allocate(1).value();
  device_->Zero(memory, 1);
  device_->Synchronize();
  device_->Free(memory);
}

TEST_F(GpuDeviceTest, ThreadsShareIt) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int n = 0; n < 20; ++n) {
        const size_t bytes = 1000 * static_cast<size_t>(n + 1);
        std::byte* const memory = device_->Allocate(bytes).value();
        std::byte* const host = Host(bytes);
        std::memset(host, t + 1, bytes);
        device_->Copy(memory, host, bytes);
        device_->Synchronize();
        std::memset(host, 0, bytes);
        device_->Copy(host, memory, bytes);
        device_->Synchronize();
        EXPECT_EQ(host[bytes - 1], static_cast<std::byte>(t + 1));
        device_->Free(memory);
        device_->FreeHost(host);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// The check that each start makes.
TEST(GpuBackendTest, GivesTheCpusBits) {
  const auto backend = CudaBackend::Create(MakeCudaDevice(0).value(), {.self_check = true});
  EXPECT_TRUE(backend.ok()) << backend.status();
}

}  // namespace
}  // namespace moepool
