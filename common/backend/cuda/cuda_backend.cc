// See cuda_backend.h.
#include "common/backend/cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "common/backend/cuda/self_check.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/packed.h"

namespace moepool {
namespace {

constexpr size_t kCopyBytes = size_t{8} << 20;  // to the device at once
// Left free for the driver and for who else draws on the card: half a GiB, or an eighth where that is
// less.
constexpr uint64_t kMargin = uint64_t{512} << 20;

// Of the limit, where experts may lie in memory of the host: one byte in as many is for copies of them.
constexpr uint64_t kCopiesShare = 4;

WeightOptions NeverMapped(WeightOptions options) {
  options.map = false;
  return options;
}

}  // namespace

CudaMatrix::~CudaMatrix() {
  if (places_ != nullptr) places_->Forget(*this);
}

void CudaMatrix::ExchangeMemory(CudaMatrix* other) {
  std::swap(block_, other->block_);
  std::swap(pinned_, other->pinned_);
  std::swap(weights_.data, other->weights_.data);
}

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(CudaBackend* backend, std::unique_ptr<DeviceBlock> block)
      : backend_(backend), block_(std::move(block)) {}
  std::byte* data() override { return block_->data(); }
  size_t bytes() const override { return block_->bytes(); }
  void Write(size_t offset, std::span<const std::byte> bytes) override {
    MOEPOOL_CHECK(offset <= block_->bytes() && bytes.size() <= block_->bytes() - offset);
    backend_->CopyIn(block_->data() + offset, bytes);
  }

 private:
  CudaBackend* const backend_;
  const std::unique_ptr<DeviceBlock> block_;
};

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(std::unique_ptr<Device> device,
                                                                 const CudaOptions& options) {
  const DeviceMemoryInfo memory = device->Memory();
  if (options.memory_limit_bytes > memory.total_bytes) {
    return absl::InvalidArgumentError(StrCat("device memory is limited to ", options.memory_limit_bytes,
                                             " bytes, ", device->Description(), " has ", memory.total_bytes));
  }
  const uint64_t unlimited = memory.free_bytes - std::min(kMargin, memory.free_bytes / 8);
  const uint64_t limit = options.memory_limit_bytes > 0 ? options.memory_limit_bytes : unlimited;
  std::unique_ptr<CudaBackend> backend(new CudaBackend(std::move(device), limit, options));
  if (options.pinned_limit_bytes > 0) {
    const size_t bytes = limit / kCopiesShare;
    MOEPOOL_ASSIGN_OR_RETURN(
        backend->cache_memory_,
        DeviceBlock::Create(backend->device_.get(), &backend->budget_, DeviceBudget::Role::kCopies, bytes));
    backend->cache_ =
        std::make_unique<ExpertCache>(backend->device_.get(), backend->cache_memory_->data(), bytes);
    backend->places_ = std::make_unique<ExpertPlaces>(backend->device_.get(), backend->cache_.get());
  }
  backend->experts_ = MakeCudaExpertOps(&backend->context_, backend->places_.get());
  if (options.self_check) MOEPOOL_RETURN_IF_ERROR(CheckBits(backend.get()));
  return backend;
}

CudaBackend::CudaBackend(std::unique_ptr<Device> device, uint64_t limit_bytes, const CudaOptions& options)
    : device_(std::move(device)),
      budget_(limit_bytes),
      pinned_budget_(options.pinned_limit_bytes),
      weights_(NeverMapped(options.weights), CopiedWeights{}),
      copies_(device_.get()),
      context_(device_.get(), &budget_, options.fused),
      trunk_(MakeCudaTrunkOps(&context_, options.most_graph_pieces)) {}

CudaBackend::~CudaBackend() = default;

GpuFacts CudaBackend::Gpu() const {
  const uint64_t copies = cache_memory_ != nullptr ? cache_memory_->bytes() : 0;
  const uint64_t taken = copies + budget_.used(DeviceBudget::Role::kWorking);
  return {device_->PciBusId(), budget_.limit() - std::min(budget_.limit(), taken) + pinned_budget_.limit()};
}

absl::Status CudaBackend::ReserveTrunk(const ModelConfig& config, const LargestCall& call) {
  return trunk_->Reserve(config, call);
}

absl::Status CudaBackend::ReserveExperts(int hidden, const LargestCall& call) {
  return experts_->Reserve(hidden, call);
}

ExpertCacheStats CudaBackend::ExpertCopies() {
  MutexLock lock(&context_.mutex());
  if (cache_ == nullptr) return {};
  ExpertCacheStats stats = cache_->stats();
  stats.exchanges = places_->exchanges();
  return stats;
}

bool CudaBackend::Supports(Op, DType) const { return true; }  // every operation, every type of dtype.h

void CudaBackend::CopyIn(std::byte* to, std::span<const std::byte> bytes) {
  MutexLock lock(&copy_mutex_);
  while (!bytes.empty()) {
    const size_t n = std::min(bytes.size(), kCopyBytes);
    std::byte* const staged = copies_.Get(n);
    std::memcpy(staged, bytes.data(), n);
    device_->Copy(to, staged, n);
    device_->Synchronize();
    bytes = bytes.subspan(n);
    to += n;
  }
}

absl::StatusOr<std::unique_ptr<Buffer>> CudaBackend::Allocate(size_t bytes) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<DeviceBlock> block,
                           DeviceBlock::Create(device_.get(), &budget_, DeviceBudget::Role::kBuffers, bytes));
  device_->Zero(block->data(), bytes);
  return std::make_unique<CudaBuffer>(this, std::move(block));
}

absl::StatusOr<std::unique_ptr<Matrix>> CudaBackend::Load(const MatrixView& weights, const WeightKey& key) {
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (weights.rows > kMost || weights.cols > kMost) {
    return absl::InvalidArgumentError(StrCat("a matrix of ", weights.rows, " x ", weights.cols,
                                             "; a GPU takes up to ", kMost, " rows and columns"));
  }
  MOEPOOL_ASSIGN_OR_RETURN(const PackedMatrix packed, weights_.Load(weights, key));
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(packed.weights.data),
                                         packed.bytes());
  absl::StatusOr<std::unique_ptr<DeviceBlock>> block =
      DeviceBlock::Create(device_.get(), &budget_, DeviceBudget::Role::kWeights, bytes.size());
  std::unique_ptr<PinnedBlock> pinned;
  if (block.ok()) {
    CopyIn((*block)->data(), bytes);
  } else if (absl::IsResourceExhausted(block.status()) && cache_ != nullptr) {
    MOEPOOL_ASSIGN_OR_RETURN(pinned, PinnedBlock::Create(device_.get(), &pinned_budget_, bytes.size()));
    std::ranges::copy(bytes, pinned->data());
  } else {
    return block.status();
  }
  DeviceWeights on_device;
  on_device.data = reinterpret_cast<const uint8_t*>(pinned != nullptr ? pinned->data() : (*block)->data());
  on_device.group_bytes = packed.weights.group_bytes;
  on_device.rows = static_cast<int32_t>(packed.rows);
  on_device.cols = static_cast<int32_t>(packed.cols);
  on_device.blocks = static_cast<int32_t>(packed.weights.blocks);
  on_device.first_sub_block = static_cast<int32_t>(packed.weights.first_sub_block);
  on_device.dtype = packed.dtype;
  const uint64_t id = next_id_.fetch_add(1, std::memory_order_relaxed);
  return std::make_unique<CudaMatrix>(on_device, id, pinned != nullptr ? nullptr : *std::move(block),
                                      std::move(pinned), places_.get());
}

}  // namespace moepool
