// The CUDA backend: trunk and experts on one GPU. Weights are packed as the CPU's are
// (common/kernels/packed.h) and kernels compute in the same order, so that a GPU gives the CPU's bits and
// shares its numeric class.
//
// Work is queued on one stream; the host waits in Fetch() alone.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_context.h"
#include "common/backend/cuda/device.h"
#include "common/backend/cuda/expert_cache.h"
#include "common/base/mutex.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {

struct CudaOptions {
  uint64_t memory_limit_bytes = 0;  // of weights and buffers; 0: what is free, less a margin
  // Page-locked memory of the host for weights that do not fit. Where there is any, a quarter of the limit is
  // kept for copies of experts that lie there.
  uint64_t pinned_limit_bytes = 0;
  bool self_check = true;
};

// What the device holds, by role, and how much it may.
class DeviceBudget {
 public:
  explicit DeviceBudget(uint64_t limit_bytes) : limit_(limit_bytes) {}
  enum class Role { kWeights, kBuffers, kCopies };
  // ResourceExhausted names the bytes of each role and the limit.
  absl::Status Take(Role role, uint64_t bytes);
  void Return(Role role, uint64_t bytes);
  uint64_t limit() const { return limit_; }

 private:
  uint64_t& Used(Role role) REQUIRES(mutex_) { return used_[static_cast<size_t>(role)]; }
  const uint64_t limit_;
  Mutex mutex_;
  std::array<uint64_t, 3> used_ GUARDED_BY(mutex_) = {};
};

// Memory of the device within the budget.
class DeviceBlock {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceBlock>> Create(Device* device, DeviceBudget* budget,
                                                             DeviceBudget::Role role, size_t bytes);
  ~DeviceBlock();
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  DeviceBlock(Device* device, DeviceBudget* budget, DeviceBudget::Role role, size_t bytes)
      : device_(device), budget_(budget), role_(role), bytes_(bytes) {}
  Device* const device_;
  DeviceBudget* const budget_;
  const DeviceBudget::Role role_;
  const size_t bytes_;
  std::byte* data_ = nullptr;
};

// Page-locked memory of the host, within what all of them may take.
class PinnedBlock {
 public:
  // ResourceExhausted names the bytes.
  static absl::StatusOr<std::unique_ptr<PinnedBlock>> Create(Device* device, DeviceBudget* budget,
                                                             size_t bytes);
  ~PinnedBlock();
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  std::byte* data() const { return data_; }

 private:
  PinnedBlock(Device* device, DeviceBudget* budget, size_t bytes)
      : device_(device), budget_(budget), bytes_(bytes) {}
  Device* const device_;
  DeviceBudget* const budget_;
  const size_t bytes_;
  std::byte* data_ = nullptr;
};

class CudaMatrix final : public Matrix {
 public:
  CudaMatrix(const DeviceWeights& weights, uint64_t id, std::unique_ptr<DeviceBlock> block)
      : weights_(weights), id_(id), block_(std::move(block)) {}
  CudaMatrix(const DeviceWeights& weights, uint64_t id, std::unique_ptr<PinnedBlock> block)
      : weights_(weights), id_(id), pinned_(std::move(block)) {}
  DType dtype() const override { return weights_.dtype; }
  int64_t rows() const override { return weights_.rows; }
  int64_t cols() const override { return weights_.cols; }
  uint64_t bytes() const override { return WeightBytes(weights_); }
  const DeviceWeights& weights() const { return weights_; }
  bool pinned() const { return pinned_ != nullptr; }  // in memory of the host
  uint64_t id() const { return id_; }                 // of this matrix alone; not 0

 private:
  const DeviceWeights weights_;
  const uint64_t id_;
  const std::unique_ptr<DeviceBlock> block_;
  const std::unique_ptr<PinnedBlock> pinned_;
};

class CudaBackend final : public Backend {
 public:
  // FailedPrecondition where the device gives other bits than the CPU's scalar kernels (self_check), naming
  // the operation and both values.
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(std::unique_ptr<Device> device,
                                                             const CudaOptions& options);
  ~CudaBackend() override;
  std::string_view Name() const override { return "cuda"; }
  std::string NumericClass() const override { return std::string(kNumericClass); }
  bool Supports(Op op, DType dtype) const override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Matrix>> Load(const MatrixView& weights, const WeightKey& key) override;
  void KeepLoaded(absl::FunctionRef<bool()>) override {}  // weights are packed at each start
  TrunkOps& Trunk() override { return *trunk_; }
  ExpertOps& Experts() override { return *experts_; }
  GpuFacts Gpu() const override;
  ExpertCacheStats cache_stats();
  Device& device() { return *device_; }

 private:
  CudaBackend(std::unique_ptr<Device> device, uint64_t limit_bytes, uint64_t pinned_limit_bytes);
  // Through page-locked memory; done on return.
  void CopyIn(std::byte* to, std::span<const std::byte> bytes);

  const std::unique_ptr<Device> device_;
  DeviceBudget budget_;
  DeviceBudget pinned_budget_;
  std::atomic<uint64_t> next_id_ = 1;
  Mutex copy_mutex_;
  HostScratch copies_ GUARDED_BY(copy_mutex_);
  CudaContext context_;
  std::unique_ptr<DeviceBlock> cache_memory_;
  std::unique_ptr<ExpertCache> cache_;  // null: nothing may lie in memory of the host
  std::unique_ptr<TrunkOps> trunk_;
  std::unique_ptr<ExpertOps> experts_;

  friend class CudaBuffer;
};

std::unique_ptr<TrunkOps> MakeCudaTrunkOps(CudaContext* context);
// `cache` may be null.
std::unique_ptr<ExpertOps> MakeCudaExpertOps(CudaContext* context, ExpertCache* cache);

}  // namespace moepool
