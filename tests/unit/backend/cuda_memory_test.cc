// What the CUDA backend does where memory is short, on the emulated device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/tensor/quantize.h"
#include "tests/support/simt/device_of_kernels.h"
#include "tests/unit/backend/small_experts.h"

namespace moepool {
namespace {

using ::testing::HasSubstr;

TEST(CudaBackendTest, MemoryIsShortWithTheBytesOfEachRole) {
  EmulatedDeviceOptions device;
  device.memory_bytes = 1000000;
  CudaOptions options;
  options.memory_limit_bytes = 900000;
  options.self_check = false;
  auto backend =
      CudaBackend::Create(std::make_unique<DeviceOfKernels>(emulated::Kernels(), device), options).value();
  EXPECT_EQ(backend->Gpu().memory_bytes, 900000u);
  const auto buffer = backend->Allocate(500000).value();
  const std::vector<float> values(100 * 320);
  const MatrixView view = {DType::kF32, 100, 320, reinterpret_cast<const std::byte*>(values.data()), 1280, 0};
  const auto matrix = backend->Load(view, {}).value();
  EXPECT_EQ(matrix->bytes(), 112u * 320 * 4);
  const absl::Status status = backend->Allocate(300000).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(
      std::string(status.message()),
      "300000 bytes of device memory asked for buffers; of 900000 that may be used, weights hold 143360, "
      "buffers 500000, working memory 0 and copies of experts 0");
  EXPECT_TRUE(backend->Allocate(250000).ok());  // what was refused holds nothing
  const absl::Status working = backend->ReserveExperts(320, {.rows = 100, .experts_per_row = 2, .ffn = 64});
  EXPECT_EQ(working.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(working.message()), HasSubstr("asked for working memory"));
}

TEST(CudaBackendTest, ALimitAboveTheDevicesMemoryIsRefused) {
  EmulatedDeviceOptions device;
  device.memory_bytes = 1000000;
  CudaOptions options;
  options.memory_limit_bytes = 1000001;
  const absl::Status status =
      CudaBackend::Create(std::make_unique<DeviceOfKernels>(emulated::Kernels(), device), options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(status.message()),
            "device memory is limited to 1000001 bytes, emulated device has 1000000");
}

TEST(CudaMemoryTest, ExpertsThatDoNotFitAreReadThroughCopies) {
  const auto roomy = BackendOf(100 * kExpertBytes, 0);
  // Three experts fit, and copies of two more.
  const auto tight = BackendOf(8 * kExpertBytes, 100 * kExpertBytes);
  const auto filler = tight->Allocate(5 * kExpertBytes / 2).value();
  Layer expected(roomy.get());
  Layer layer(tight.get());
  const std::vector<std::vector<int32_t>> calls = {{0, 1, 2},       {3, 4}, {3, 4}, {4, 5},
                                                   {3, 4, 5, 6, 7}, {6, 7}, {0, 7}};
  for (const std::vector<int32_t>& experts : calls) EXPECT_EQ(layer.Run(experts), expected.Run(experts));
  const ExpertCacheStats stats = tight->ExpertCopies();
  EXPECT_GT(stats.hits, 1u);
  EXPECT_GT(stats.copies, 3u);
  EXPECT_GT(stats.read_from_host, 0u);
  EXPECT_EQ(roomy->ExpertCopies().copies, 0u);
}

// A step of rows that are as far into the context as can be, and a dispatch in which each row is a part of an
// expert: the memory that the operations work in does not grow past what was reserved.
TEST(CudaMemoryTest, WhatIsReservedIsEnough) {
  constexpr int kRows = 7;
  ModelConfig config;
  config.hidden = kSize;
  config.heads = 4;
  config.kv_heads = 2;
  config.head_dim = 16;
  config.context_tokens = 800;
  config.rope.dims = 16;
  const auto backend = BackendOf(uint64_t{1} << 30, 0);
  Layer layer(backend.get());
  const auto memory = [&](size_t floats) { return backend->Allocate(floats * sizeof(float)).value(); };
  const int blocks = config.context_tokens / kKvBlockTokens;
  const auto k = memory(blocks * 2 * kKvBlockTokens * 16), v = memory(blocks * 2 * kKvBlockTokens * 16);
  const auto qkv = memory(kRows * 8 * 16), out = memory(kRows * kSize), residual = memory(kRows * kSize);
  const std::unique_ptr<ExpertSet> set = layer.MakeSet();
  const LargestCall call = {.rows = kRows, .experts_per_row = kExperts, .ffn = kSize};
  ASSERT_TRUE(backend->ReserveTrunk(config, call).ok());
  ASSERT_TRUE(backend->ReserveExperts(kSize, call).ok());
  const uint64_t left = backend->Gpu().memory_bytes;
  EXPECT_LT(left, (uint64_t{1} << 30) - kRows * kExperts * kSize * 8);

  std::vector<std::vector<int32_t>> tables(kRows, std::vector<int32_t>(blocks));
  std::vector<int32_t> positions(kRows, config.context_tokens - 1);
  std::vector<const int32_t*> table_of;
  for (const auto& table : tables) table_of.push_back(table.data());
  const std::vector<float> angles(kRows * 8);
  const AttentionShape shape = {.heads = 4, .kv_heads = 2, .head_dim = 16, .rope_dims = 16};
  const KvLayer kv = {.type = KvType::kF32, .k = k->data(), .v = v->data()};
  std::vector<uint8_t> faults(kRows);
  for (const uint64_t step : {1, 2, 3, 4, 5, 6}) {
    const AttentionBatch batch = {.rows = kRows,
                                  .position = positions.data(),
                                  .block_table = table_of.data(),
                                  .cos = angles.data(),
                                  .sin = angles.data(),
                                  .step = step,
                                  .micro_batch = static_cast<int>(step % 2)};
    const auto attend = [&] { backend->Trunk().Attention(shape, batch, kv, qkv->f32(), out->f32()); };
    if (step < 3) {
      attend();
      continue;
    }
    // Of as many, rounded up.
    backend->Trunk().QueueSegment(
        {.number = 1, .rows = kRows, .shape = &shape, .batch = &batch, .faults = faults}, attend);
  }
  EXPECT_EQ(backend->Segments().recorded, 2u);
  const std::vector<float> part(kSize);
  const std::vector<const float*> parts(kRows * kExperts, part.data());
  const std::vector<PlannedAdd> adds(kRows * (kExperts - 1), {0, 1});
  std::vector<CombineRow> rows;
  for (int r = 0; r < kRows; ++r) {
    rows.push_back({r, r * kExperts, (r + 1) * kExperts, r * (kExperts - 1), (r + 1) * (kExperts - 1)});
  }
  backend->Trunk().Combine({.parts = parts, .adds = adds, .rows = rows, .hidden = kSize}, residual->f32());
  layer.RunAll(kRows);
  layer.RunAllSelected(*set, kRows);
  EXPECT_EQ(backend->Gpu().memory_bytes, left);
}

TEST(CudaMemoryTest, TheLeastRecentlyUsedCopyMakesPlace) {
  EmulatedDevice device;
  std::byte* const memory = device.Allocate(1 << 16).value();
  {
    ExpertCache cache(&device, memory, 2 * 3 * 256);
    const std::vector<uint8_t> bytes(256);
    DeviceWeights w;
    w.data = bytes.data();
    w.group_bytes = 256;
    w.rows = 16;
    const DeviceExpert expert = {w, w, w};
    const auto place = [&](uint64_t id) {
      cache.Begin();
      return cache.Place(id, expert).at.gate.data;
    };
    const uint8_t* const first = place(1);
    const uint8_t* const second = place(2);
    EXPECT_NE(first, second);
    EXPECT_EQ(place(1), first);
    EXPECT_EQ(place(3), second);
    EXPECT_EQ(place(1), first);
    EXPECT_EQ(place(2), second);
    EXPECT_EQ(cache.stats().hits, 2u);
    EXPECT_EQ(cache.stats().copies, 4u);
    // In one call no copy is taken from those given before.
    cache.Begin();
    EXPECT_EQ(cache.Place(1, expert).at.gate.data, first);
    EXPECT_EQ(cache.Place(2, expert).at.gate.data, second);
    EXPECT_EQ(cache.Place(3, expert).at.gate.data, bytes.data());
    EXPECT_EQ(cache.stats().read_from_host, 1u);
    device.StreamAfterAside();  // copies are made aside, of bytes that end here
    device.Synchronize();
  }
  device.Free(memory);
}

TEST(CudaMemoryTest, PageLockedMemoryIsLimitedToo) {
  const auto backend = BackendOf(10000, 15000);
  const auto first = LoadRandom(backend.get(), 1);  // 4352 bytes each; 7500 are not for copies
  std::vector<std::unique_ptr<Matrix>> pinned;
  for (int i = 0; i < 3; ++i) pinned.push_back(LoadRandom(backend.get(), 2));
  EXPECT_TRUE(static_cast<const CudaMatrix&>(*pinned[0]).pinned());
  EXPECT_FALSE(static_cast<const CudaMatrix&>(*first).pinned());
  const std::vector<std::byte> file(kSize * RowBytes(DType::kQ8_0, kSize));
  const absl::Status status =
      backend->Load({DType::kQ8_0, kSize, kSize, file.data(), RowBytes(DType::kQ8_0, kSize), 0}, {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(std::string(status.message()),
            "4352 bytes of page-locked memory asked for, of which 15000 may be used");
}

}  // namespace
}  // namespace moepool
