// The CUDA backend: trunk and experts on one GPU. Weights are packed as the CPU's are
// (common/kernels/packed.h) and kernels compute in the same order, so that a GPU gives the CPU's bits and
// shares its numeric class.
//
// Work is queued on one stream, copies of experts aside of it (device.h); the host waits in Fetch() alone.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>

#include "common/backend/backend.h"
#include "common/backend/cuda/cuda_context.h"
#include "common/backend/cuda/cuda_graphs.h"
#include "common/backend/cuda/device.h"
#include "common/backend/cuda/device_memory.h"
#include "common/backend/cuda/expert_cache.h"
#include "common/backend/cuda/expert_places.h"
#include "common/backend/weight_store.h"
#include "common/base/mutex.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {

struct CudaOptions {
  uint64_t memory_limit_bytes = 0;  // of all that is taken of the device; 0: what is free, less a margin
  // Page-locked memory of the host for weights that do not fit. Where there is any, a quarter of the limit is
  // kept for copies of experts that lie there.
  uint64_t pinned_limit_bytes = 0;
  // Otherwise norms, their quantisation, the products of one input, gate, up, activation, its quantisation,
  // down and the tree's adds are launches of their own, with the same results: to see what one is worth.
  bool fused = true;
  WeightOptions weights = {};  // never mapped: what is read goes to the device
  bool self_check = true;
  size_t most_graph_pieces = CudaGraphs::kMostPieces;  // 0: no segment is recorded
};

// Its bytes are those that it was made of, for ever; where they lie may change (expert_places.h), while one
// holds the context's mutex.
class CudaMatrix final : public Matrix {
 public:
  // `block` or `pinned` is null, and so may `places` be.
  CudaMatrix(const DeviceWeights& weights, uint64_t id, std::unique_ptr<DeviceBlock> block,
             std::unique_ptr<PinnedBlock> pinned, ExpertPlaces* places)
      : weights_(weights), id_(id), block_(std::move(block)), pinned_(std::move(pinned)), places_(places) {}
  ~CudaMatrix() override;
  DType dtype() const override { return weights_.dtype; }
  int64_t rows() const override { return weights_.rows; }
  int64_t cols() const override { return weights_.cols; }
  uint64_t bytes() const override { return WeightBytes(weights_); }
  const DeviceWeights& weights() const { return weights_; }
  bool pinned() const { return pinned_ != nullptr; }  // in memory of the host
  uint64_t id() const { return id_; }                 // of this matrix alone; not 0
  std::byte* data() const { return pinned() ? pinned_->data() : block_->data(); }
  // Somebody has noted where it lies: it is to stay there.
  void Stay() { stays_ = true; }
  bool stays() const { return stays_; }
  // Changes memory of as many bytes with `other`; copying the bytes is the caller's.
  void ExchangeMemory(CudaMatrix* other);

 private:
  DeviceWeights weights_;
  const uint64_t id_;
  std::unique_ptr<DeviceBlock> block_;
  std::unique_ptr<PinnedBlock> pinned_;
  ExpertPlaces* const places_;
  bool stays_ = false;
  uint64_t expert_ = 0;  // places_'s, which knows it by that; 0: it does not

  friend class ExpertPlaces;
};

// The operations, whose memory to work in can be taken beforehand, and what the backend says of them.
class ReservingTrunkOps : public TrunkOps {
 public:
  virtual absl::Status Reserve(const ModelConfig& config, const LargestCall& call) = 0;
  virtual SegmentStats Segments() = 0;
};
class ReservingExpertOps : public ExpertOps {
 public:
  virtual absl::Status Reserve(int hidden, const LargestCall& call) = 0;
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
  void KeepLoaded(absl::FunctionRef<bool()> stop) override { weights_.KeepLoaded(stop); }
  TrunkOps& Trunk() override { return *trunk_; }
  ExpertOps& Experts() override { return *experts_; }
  GpuFacts Gpu() const override;  // memory_bytes: less what has been reserved
  ExpertCacheStats ExpertCopies() override;
  SegmentStats Segments() override { return trunk_->Segments(); }
  absl::Status ReserveTrunk(const ModelConfig& config, const LargestCall& call) override;
  absl::Status ReserveExperts(int hidden, const LargestCall& call) override;
  Device& device() { return *device_; }
  WeightStore& weights() { return weights_; }

 private:
  CudaBackend(std::unique_ptr<Device> device, uint64_t limit_bytes, const CudaOptions& options);
  // Through page-locked memory; done on return.
  void CopyIn(std::byte* to, std::span<const std::byte> bytes);

  const std::unique_ptr<Device> device_;
  mutable DeviceBudget budget_;
  DeviceBudget pinned_budget_;
  WeightStore weights_;
  std::atomic<uint64_t> next_id_ = 1;
  Mutex copy_mutex_;
  HostScratch copies_ GUARDED_BY(copy_mutex_);
  CudaContext context_;
  std::unique_ptr<DeviceBlock> cache_memory_;
  std::unique_ptr<ExpertCache> cache_;  // null, as places_: nothing may lie in memory of the host
  std::unique_ptr<ExpertPlaces> places_;
  std::unique_ptr<ReservingTrunkOps> trunk_;
  std::unique_ptr<ReservingExpertOps> experts_;

  friend class CudaBuffer;
};

// `most_graph_pieces` as of CudaOptions.
std::unique_ptr<ReservingTrunkOps> MakeCudaTrunkOps(CudaContext* context, size_t most_graph_pieces);
// `places` may be null.
std::unique_ptr<ReservingExpertOps> MakeCudaExpertOps(CudaContext* context, ExpertPlaces* places);

}  // namespace moepool
