// What the CUDA backend does where memory is short, on the emulated device.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/tensor/quantize.h"
#include "tests/support/simt/device_of_kernels.h"

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
  EXPECT_EQ(std::string(status.message()),
            "300000 bytes of device memory asked for; of 900000 that may be used, weights hold 143360, "
            "buffers 500000 and copies of experts 0");
  EXPECT_TRUE(backend->Allocate(250000).ok());  // what was refused holds nothing
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

// Experts of 64 x 64 in Q8_0, which take 16 KiB or so each.
constexpr int kSize = 64;
constexpr int kExperts = 8;

std::unique_ptr<Matrix> LoadRandom(Backend* backend, uint64_t seed) {
  std::vector<float> values(kSize * kSize);
  for (float& v : values) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    v = static_cast<float>(static_cast<int32_t>(seed >> 33) - (1 << 30)) * 0x1p-32f;
  }
  const int64_t row_bytes = RowBytes(DType::kQ8_0, kSize);
  std::vector<std::byte> file(kSize * row_bytes);
  for (int r = 0; r < kSize; ++r) {
    QuantizeRow(DType::kQ8_0, values.data() + r * kSize, kSize, file.data() + r * row_bytes);
  }
  return backend->Load({DType::kQ8_0, kSize, kSize, file.data(), row_bytes, 0}, {}).value();
}

class Layer {
 public:
  explicit Layer(Backend* backend) : backend_(*backend) {
    for (uint64_t e = 0; e < kExperts; ++e) {
      experts_[e].gate = LoadRandom(backend, 3 * e + 1);
      experts_[e].up = LoadRandom(backend, 3 * e + 2);
      experts_[e].down = LoadRandom(backend, 3 * e + 3);
      pointers_.push_back(&experts_[e]);
    }
    out_ = backend->Allocate(kSize * sizeof(float)).value();
  }
  // One row through `experts`, which ascend.
  std::vector<float> Run(const std::vector<int32_t>& experts) {
    std::vector<int8_t> q(kSize);
    for (int i = 0; i < kSize; ++i) q[i] = static_cast<int8_t>(i * 37 % 255 - 127);
    std::vector<float> scale(kSize / 32, 0.01f);
    std::vector<ExpertEntry> entries;
    for (const int32_t e : experts) entries.push_back({e, 0.5f});
    const std::vector<ExpertPart> parts = {{0, 0, static_cast<int32_t>(entries.size())}};
    ExpertBatch batch;
    batch.x = {.rows = 1, .cols = kSize, .f32 = nullptr, .q = q.data(), .scale = scale.data()};
    batch.parts = parts;
    batch.entries = entries;
    batch.host_rows = true;
    std::vector<uint8_t> faults(1);
    backend_.Experts().Run(pointers_, batch, out_->f32(), faults);
    Fetched out = {out_->data(), kSize * sizeof(float)};
    backend_.Experts().Fetch({&out, 1});
    EXPECT_EQ(faults[0], 0);
    return {out.f32(), out.f32() + kSize};
  }

 private:
  Backend& backend_;
  ExpertWeights experts_[kExperts];
  std::vector<const ExpertWeights*> pointers_;
  std::unique_ptr<Buffer> out_;
};

std::unique_ptr<CudaBackend> BackendOf(uint64_t limit_bytes, uint64_t pinned_bytes) {
  CudaOptions options;
  options.memory_limit_bytes = limit_bytes;
  options.pinned_limit_bytes = pinned_bytes;
  options.self_check = false;
  return CudaBackend::Create(std::make_unique<EmulatedDevice>(), options).value();
}

TEST(CudaMemoryTest, ExpertsThatDoNotFitAreReadThroughCopies) {
  constexpr uint64_t kExpertBytes = 3 * kSize * kSize / 32 * 34;
  const auto roomy = BackendOf(100 * kExpertBytes, 0);
  // Three experts fit, and copies of two more.
  const auto tight = BackendOf(8 * kExpertBytes, 100 * kExpertBytes);
  const auto filler = tight->Allocate(5 * kExpertBytes / 2).value();
  Layer expected(roomy.get());
  Layer layer(tight.get());
  const std::vector<std::vector<int32_t>> calls = {{0, 1, 2},       {3, 4}, {3, 4}, {4, 5},
                                                   {3, 4, 5, 6, 7}, {6, 7}, {0, 7}};
  for (const std::vector<int32_t>& experts : calls) EXPECT_EQ(layer.Run(experts), expected.Run(experts));
  const ExpertCacheStats stats = tight->cache_stats();
  EXPECT_GT(stats.hits, 1u);
  EXPECT_GT(stats.copies, 3u);
  EXPECT_GT(stats.read_from_host, 0u);
  EXPECT_EQ(roomy->cache_stats().copies, 0u);
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
      return cache.Place(id, expert).gate.data;
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
    EXPECT_EQ(cache.Place(1, expert).gate.data, first);
    EXPECT_EQ(cache.Place(2, expert).gate.data, second);
    EXPECT_EQ(cache.Place(3, expert).gate.data, bytes.data());
    EXPECT_EQ(cache.stats().read_from_host, 1u);
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
