// A layer of small experts on the CUDA backend, for tests of where its memory is.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/backend/cuda/cuda_backend.h"
#include "common/tensor/quantize.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {

// Experts of 64 x 64 in Q8_0, which take 16 KiB or so each.
inline constexpr int kSize = 64;
inline constexpr int kExperts = 8;
inline constexpr uint64_t kExpertBytes = 3 * kSize * kSize / 32 * 34;

inline std::unique_ptr<Matrix> LoadRandom(Backend* backend, uint64_t seed) {
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
  const ExpertWeights& expert(size_t e) const { return *pointers_[e]; }
  // One row through `experts`, which ascend.
  std::vector<float> Run(const std::vector<int32_t>& experts) {
    Queue(experts);
    return Fetch();
  }
  void Queue(const std::vector<int32_t>& experts) {
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
    backend_.Experts().Run(pointers_, batch, out_->f32(), faults_);
  }
  std::vector<float> Fetch() {
    Fetched out = {out_->data(), kSize * sizeof(float)};
    backend_.Experts().Fetch({&out, 1});
    EXPECT_EQ(faults_[0], 0);
    return {out.f32(), out.f32() + kSize};
  }

  // Each of `rows` rows through every expert, each of which is a part of its own.
  void RunAll(int rows) {
    const size_t elements = static_cast<size_t>(rows) * kSize;
    std::vector<int8_t> q(elements, 1);
    std::vector<float> scale(elements / 32, 0.01f);
    std::vector<ExpertEntry> entries;
    std::vector<ExpertPart> parts;
    for (int32_t p = 0; p < rows * kExperts; ++p) {
      entries.push_back({p % kExperts, 0.5f});
      parts.push_back({p / kExperts, p, p + 1});
    }
    const auto out = backend_.Allocate(parts.size() * kSize * sizeof(float)).value();
    std::vector<uint8_t> faults(parts.size());
    const ExpertBatch batch = {
        .x = {.rows = rows, .cols = kSize, .f32 = nullptr, .q = q.data(), .scale = scale.data()},
        .parts = parts,
        .entries = entries,
        .host_rows = true};
    backend_.Experts().Run(pointers_, batch, out->f32(), faults);
    backend_.Experts().Fetch({});
  }

  std::unique_ptr<ExpertSet> MakeSet() { return backend_.Experts().MakeSet(pointers_).value(); }
  // Each of `rows` rows of zeros through every expert, and the first besides as the shared one.
  void RunAllSelected(const ExpertSet& set, int rows) {
    const size_t elements = static_cast<size_t>(rows) * kSize;
    const auto q = backend_.Allocate(elements).value();
    const auto scale = backend_.Allocate(elements / 32 * sizeof(float)).value();
    const auto residual = backend_.Allocate(elements * sizeof(float)).value();
    std::vector<SelectedExpert> chosen;
    for (int32_t p = 0; p < rows * kExperts; ++p) chosen.push_back({p % kExperts, 0.5f});
    const auto selected = backend_.Allocate(chosen.size() * sizeof(SelectedExpert)).value();
    selected->Write(0, std::as_bytes(std::span<const SelectedExpert>(chosen)));
    std::vector<uint8_t> faults(static_cast<size_t>(rows));
    SelectedBatch batch;
    batch.x = {.rows = rows, .cols = kSize, .q = reinterpret_cast<int8_t*>(q->data()), .scale = scale->f32()};
    batch.selected = reinterpret_cast<const SelectedExpert*>(selected->data());
    batch.experts_per_token = kExperts;
    batch.shared = &set;
    backend_.Experts().RunSelected(set, batch, residual->f32(), faults);
    backend_.Experts().Fetch({});
  }

 private:
  Backend& backend_;
  ExpertWeights experts_[kExperts];
  std::vector<const ExpertWeights*> pointers_;
  std::unique_ptr<Buffer> out_;
  std::vector<uint8_t> faults_ = std::vector<uint8_t>(1);
};

inline std::unique_ptr<CudaBackend> BackendOf(
    uint64_t limit_bytes, uint64_t pinned_bytes,
    std::unique_ptr<Device> device = std::make_unique<EmulatedDevice>()) {
  CudaOptions options;
  options.memory_limit_bytes = limit_bytes;
  options.pinned_limit_bytes = pinned_bytes;
  options.self_check = false;
  return CudaBackend::Create(std::move(device), options).value();
}

}  // namespace moepool
