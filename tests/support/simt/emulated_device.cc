// See emulated_device.h.
#include "tests/support/simt/emulated_device.h"

#include <cstring>
#include <iterator>
#include <limits>
#include <new>

#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {
namespace {

constexpr std::align_val_t kAlignment{256};
constexpr int kPattern = 0xa5;  // as a float -2.9e-16, as an index far out of any range

std::byte* New(size_t bytes) {
  auto* const memory = static_cast<std::byte*>(::operator new(bytes, kAlignment));
  std::memset(memory, kPattern, bytes);
  return memory;
}

void Delete(std::byte* memory) { ::operator delete(memory, kAlignment); }

}  // namespace

EmulatedDevice::EmulatedDevice(const EmulatedDeviceOptions& options)
    : options_(options), stream_(options.eager) {}

EmulatedDevice::~EmulatedDevice() {
  RunAll();
  MutexLock lock(&mutex_);
  MOEPOOL_CHECK(memory_.empty() && host_memory_.empty());  // all is given back
}

const CudaKernels& EmulatedDevice::Kernels() const { return emulated::Kernels(); }

DeviceMemoryInfo EmulatedDevice::Memory() const {
  MutexLock lock(&mutex_);
  return {options_.memory_bytes - used_, options_.memory_bytes};
}

absl::StatusOr<std::byte*> EmulatedDevice::Allocate(size_t bytes) {
  MutexLock lock(&mutex_);
  if (bytes > options_.memory_bytes - used_) {
    return absl::ResourceExhaustedError(StrCat("emulated device: ", bytes, " bytes asked for, ",
                                               options_.memory_bytes - used_, " of ", options_.memory_bytes,
                                               " are free"));
  }
  used_ += bytes;
  std::byte* const memory = New(bytes);
  memory_[memory] = bytes;
  return memory;
}

void EmulatedDevice::Free(std::byte* memory) {
  if (memory == nullptr) return;
  RunAll();
  MutexLock lock(&mutex_);
  const auto found = memory_.find(memory);
  MOEPOOL_CHECK(found != memory_.end());
  used_ -= found->second;
  memory_.erase(found);
  Delete(memory);
}

absl::StatusOr<std::byte*> EmulatedDevice::AllocateHost(size_t bytes) {
  MutexLock lock(&mutex_);
  std::byte* const memory = New(bytes);
  host_memory_[memory] = bytes;
  return memory;
}

void EmulatedDevice::FreeHost(std::byte* memory) {
  if (memory == nullptr) return;
  RunAll();
  MutexLock lock(&mutex_);
  MOEPOOL_CHECK(host_memory_.erase(memory) == 1);
  Delete(memory);
}

bool EmulatedDevice::OfHost(const void* memory) const {
  auto* const at = static_cast<std::byte*>(const_cast<void*>(memory));
  MutexLock lock(&mutex_);
  const auto above = host_memory_.upper_bound(at);
  if (above == host_memory_.begin()) return false;
  const auto& [begin, bytes] = *std::prev(above);
  return at < begin + bytes;
}

void EmulatedDevice::Copy(void* to, const void* from, size_t bytes) {
  if (OfHost(to) || OfHost(from)) copied_bytes_.fetch_add(bytes, std::memory_order_relaxed);
  stream_.Queue([=] { std::memcpy(to, from, bytes); });
}

void EmulatedDevice::Zero(void* memory, size_t bytes) {
  stream_.Queue([=] { std::memset(memory, 0, bytes); });
}

void EmulatedDevice::CopyAside(void* to, const void* from, size_t bytes) {
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    aside_.push_back({marks_, to, from, bytes});
    upto = ++aside_queued_;
  }
  if (options_.eager || options_.aside == CopiesAside::kEarly) RunAside(upto);
}

void EmulatedDevice::AsideAfterStream() {
  uint64_t mark = 0;
  {
    MutexLock lock(&aside_mutex_);
    mark = ++marks_;
  }
  stream_.Queue([this, mark] {
    {
      MutexLock lock(&aside_mutex_);
      marks_reached_ = mark;
    }
    if (options_.aside == CopiesAside::kEarly) RunAside(std::numeric_limits<uint64_t>::max());
  });
}

void EmulatedDevice::StreamAfterAside() {
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    upto = aside_queued_;
  }
  stream_.Queue([this, upto] { RunAside(upto); });
}

void EmulatedDevice::RunAside(uint64_t upto) {
  MutexLock lock(&aside_mutex_);
  while (aside_done_ < upto && !aside_.empty() && aside_.front().after <= marks_reached_) {
    const CopyWork& copy = aside_.front();
    std::memcpy(copy.to, copy.from, copy.bytes);
    aside_.pop_front();
    ++aside_done_;
  }
}

void EmulatedDevice::RunAll() {
  uint64_t upto = 0;
  {
    MutexLock lock(&aside_mutex_);
    upto = aside_queued_;
  }
  stream_.Run();  // what those copies wait for among it
  RunAside(upto);
}

}  // namespace moepool
