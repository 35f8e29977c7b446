// See cpu_backend.h.
#include "common/backend/cpu/cpu_backend.h"

#include <algorithm>
#include <span>
#include <utility>

#include "common/base/aligned_bytes.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

class CpuBuffer : public Buffer {
 public:
  explicit CpuBuffer(AlignedBytes bytes) : bytes_(std::move(bytes)) {}
  std::byte* data() override { return bytes_.data(); }
  size_t bytes() const override { return bytes_.bytes(); }
  void Write(size_t offset, std::span<const std::byte> bytes) override {
    MOEPOOL_CHECK(offset <= bytes_.bytes() && bytes.size() <= bytes_.bytes() - offset);
    std::ranges::copy(bytes, bytes_.data() + offset);
  }

 private:
  AlignedBytes bytes_;
};

}  // namespace

CpuBackend::CpuBackend(const KernelTable* kernels, int threads, const WeightOptions& weights)
    : weights_(weights),
      device_(kernels, threads),
      trunk_(MakeCpuTrunkOps(&device_)),
      experts_(MakeCpuExpertOps(&device_)) {}

CpuBackend::~CpuBackend() = default;

bool CpuBackend::Supports(Op, DType) const { return true; }  // every operation, every type of dtype.h

absl::StatusOr<std::unique_ptr<Buffer>> CpuBackend::Allocate(size_t bytes) {
  MOEPOOL_ASSIGN_OR_RETURN(AlignedBytes memory, AlignedBytes::Create(bytes, "buffer"));
  return std::make_unique<CpuBuffer>(std::move(memory));
}

absl::StatusOr<std::unique_ptr<Matrix>> CpuBackend::Load(const MatrixView& weights, const WeightKey& key) {
  MOEPOOL_ASSIGN_OR_RETURN(PackedMatrix packed, weights_.Load(weights, key));
  return std::make_unique<CpuMatrix>(std::move(packed));
}

}  // namespace moepool
