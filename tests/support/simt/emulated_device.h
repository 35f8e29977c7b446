// A Device on the host (common/backend/cuda/device.h): kernels run under the emulation, memory is the heap's,
// so that AddressSanitizer sees its bounds, and is filled with a pattern, so that nothing stands in it by
// luck. Work is queued and done as late as a real stream might do it: at Synchronize() or Free(). What is
// overwritten or freed while a copy from it is queued thus shows as a wrong result or a sanitizer's report.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "common/backend/cuda/device.h"
#include "common/base/mutex.h"
#include "tests/support/simt/simt_host.h"

namespace moepool {

struct EmulatedDeviceOptions {
  uint64_t memory_bytes = uint64_t{4} << 30;
  bool eager = false;  // each piece of work is done before the call that queues it returns
};

class EmulatedDevice final : public Device {
 public:
  explicit EmulatedDevice(const EmulatedDeviceOptions& options = {});
  ~EmulatedDevice() override;

  std::string Description() const override { return "emulated device"; }
  std::string PciBusId() const override { return ""; }
  const CudaKernels& Kernels() const override;
  DeviceMemoryInfo Memory() const override;
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override;
  void Free(std::byte* memory) override;
  absl::StatusOr<std::byte*> AllocateHost(size_t bytes) override;
  void FreeHost(std::byte* memory) override;
  void* Stream() override { return &stream_; }
  void Copy(void* to, const void* from, size_t bytes) override;
  void Zero(void* memory, size_t bytes) override;
  void Synchronize() override {
    synchronizations_.fetch_add(1, std::memory_order_relaxed);
    stream_.Run();
  }

  uint64_t launches() const { return stream_.launches(); }
  uint64_t synchronizations() const { return synchronizations_.load(std::memory_order_relaxed); }

 private:
  const EmulatedDeviceOptions options_;
  simt::EmulatedStream stream_;
  std::atomic<uint64_t> synchronizations_ = 0;
  mutable Mutex mutex_;
  std::map<std::byte*, size_t> memory_ GUARDED_BY(mutex_);
  std::map<std::byte*, size_t> host_memory_ GUARDED_BY(mutex_);
  uint64_t used_ GUARDED_BY(mutex_) = 0;
};

}  // namespace moepool
