// See emulated_device.h.
#include "tests/support/simt/emulated_device.h"

#include <cstring>
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
  stream_.Run();
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
  stream_.Run();
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
  stream_.Run();
  MutexLock lock(&mutex_);
  MOEPOOL_CHECK(host_memory_.erase(memory) == 1);
  Delete(memory);
}

void EmulatedDevice::Copy(void* to, const void* from, size_t bytes) {
  stream_.Queue([=] { std::memcpy(to, from, bytes); });
}

void EmulatedDevice::Zero(void* memory, size_t bytes) {
  stream_.Queue([=] { std::memset(memory, 0, bytes); });
}

}  // namespace moepool
