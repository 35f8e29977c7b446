// The bench of a GPU on the emulated device: that all of it runs and says what it has run; and that the
// probes it compares with do the work that they are counted for.
#include "tools/bench_gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <utility>

#include "common/backend/cuda/cuda_backend.h"
#include "common/kernels/cuda/cuda_kernels.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {
namespace {

TEST(BenchGpuTest, MeasuresEachKernelAndShape) {
  auto owned = std::make_unique<EmulatedDevice>();
  EmulatedDevice* const device = owned.get();
  const auto backend = CudaBackend::Create(std::move(owned), {.self_check = false}).value();
  GpuBenchOptions options;
  options.types = {"Q4_K", "F16"};
  options.rows = {1, 3};
  options.contexts = {40};
  options.seconds = 1e-9;
  options.hidden = options.ffn = 256;
  options.experts = 4;
  options.heads = 4;
  options.kv_heads = 2;
  options.head_dim = 32;
  options.vocab = 288;
  options.cold_bytes = 40000;
  std::vector<std::string> lines;
  const auto bench =
      BenchGpu(options, backend.get(), device, [&](const std::string& l) { lines.push_back(l); });
  ASSERT_TRUE(bench.ok()) << bench.status();
  EXPECT_EQ((*bench)["device"], "emulated device");
  std::map<std::pair<std::string, std::string>, int> seen;
  for (const auto& result : (*bench)["results"]) {
    ++seen[{result["kernel"], result["type"]}];
    EXPECT_GT(result["us"], 0);
    EXPECT_GT(result["of_read"], 0);
    EXPECT_EQ(result.contains("of_compute"), result["type"] == "Q4_K") << result;
  }
  EXPECT_THAT(seen,
              ::testing::UnorderedElementsAre(
                  std::pair(std::pair("matmul", "Q4_K"), 2), std::pair(std::pair("experts", "Q4_K"), 2),
                  std::pair(std::pair("matmul", "F16"), 2), std::pair(std::pair("experts", "F16"), 2),
                  std::pair(std::pair("attention", "F16"), 2), std::pair(std::pair("attention", "Q8_0"), 2),
                  std::pair(std::pair("pick", "best"), 2), std::pair(std::pair("pick", "top-p"), 2)));
  EXPECT_EQ(lines.size(), 1u + 16);
}

TEST(BenchGpuTest, ProbesReadAndMultiplyAll) {
  EmulatedDevice device;
  constexpr size_t kVectors = 3 * kProbeThreads * 5 + 37;  // rounds of four, and a rest
  std::byte* const data = device.Allocate(kVectors * 16).value();
  std::byte* const sum = device.Allocate(8).value();
  int32_t words = 0;
  for (size_t i = 0; i < kVectors * 4; ++i) {
    const int32_t word = static_cast<int32_t>(i * 2654435761u);
    std::memcpy(data + i * 4, &word, 4);
    words = static_cast<int32_t>(static_cast<uint32_t>(words) + static_cast<uint32_t>(word));
  }
  device.Zero(sum, 8);
  auto* const sums = reinterpret_cast<int32_t*>(sum);
  const ProbeKernels& probes = device.Kernels().probes;
  probes.read({reinterpret_cast<const uint8_t*>(data), kVectors, 3, &sums[0]}, device.Stream());
  probes.multiply({.rounds = 3, .blocks = 2, .sum = &sums[1]}, device.Stream());
  device.Synchronize();
  EXPECT_EQ(sums[0], words);
  EXPECT_EQ(sums[1], 3 * 2 * kMultiplyProbeSum);
  device.Free(data);
  device.Free(sum);
}

}  // namespace
}  // namespace moepool
