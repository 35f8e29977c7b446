// The CPU backend: kernels chosen at run time (common/kernels), one pool of threads, and the loops between
// them. Every loop that is shared out is over output rows, heads or tokens, never over a sum.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/backend/backend.h"
#include "common/backend/weight_store.h"
#include "common/base/mutex.h"
#include "common/base/thread_pool.h"
#include "common/kernels/kernels.h"
#include "common/kernels/packed.h"

namespace moepool {

class CpuMatrix : public Matrix {
 public:
  explicit CpuMatrix(PackedMatrix packed) : packed_(std::move(packed)) {}
  DType dtype() const override { return packed_.dtype; }
  int64_t rows() const override { return packed_.rows; }
  int64_t cols() const override { return packed_.cols; }
  uint64_t bytes() const override { return packed_.bytes(); }
  const PackedMatrix& packed() const { return packed_; }

 private:
  PackedMatrix packed_;
};

// What the operations share. The mutex makes calls of Trunk() and Experts() from two threads take turns:
// there is one pool of threads, and it runs one loop at a time.
struct CpuDevice {
  CpuDevice(const KernelTable* table, int threads) : kernels(*table), pool(threads) {}
  const KernelTable& kernels;
  ThreadPool pool;
  Mutex mutex;
};

class CpuBackend : public Backend {
 public:
  CpuBackend(const KernelTable* kernels, int threads, const WeightOptions& weights);
  ~CpuBackend() override;
  std::string_view Name() const override { return "cpu"; }
  std::string NumericClass() const override { return std::string(kNumericClass); }
  bool Supports(Op op, DType dtype) const override;
  absl::StatusOr<std::unique_ptr<Buffer>> Allocate(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Matrix>> Load(const MatrixView& weights, const WeightKey& key) override;
  void KeepLoaded(absl::FunctionRef<bool()> stop) override { weights_.KeepLoaded(stop); }
  TrunkOps& Trunk() override { return *trunk_; }
  ExpertOps& Experts() override { return *experts_; }

 private:
  WeightStore weights_;
  CpuDevice device_;
  std::unique_ptr<TrunkOps> trunk_;
  std::unique_ptr<ExpertOps> experts_;
};

// Memory of the device is the host's.
inline void FetchInPlace(std::span<Fetched> wanted) {
  for (Fetched& fetched : wanted) fetched.host = const_cast<void*>(fetched.device);
}

std::unique_ptr<TrunkOps> MakeCpuTrunkOps(CpuDevice* device);
std::unique_ptr<ExpertOps> MakeCpuExpertOps(CpuDevice* device);

}  // namespace moepool
