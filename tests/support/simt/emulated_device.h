// A Device on the host (common/backend/cuda/device.h): kernels run under the emulation, memory is the heap's,
// so that AddressSanitizer sees its bounds, and is filled with a pattern, so that nothing stands in it by
// luck. Work is queued and done as late as a real stream might do it: at Synchronize() or Free(). What is
// overwritten or freed while a copy from it is queued thus shows as a wrong result or a sanitizer's report.
// Copies aside are done as late, or as early, as what orders them and the stream allows. A graph is the very
// work that was queued, with the arguments of then.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "common/backend/cuda/device.h"
#include "common/base/mutex.h"
#include "tests/support/simt/simt_host.h"

namespace moepool {

// kLate: when the stream comes to where it waits for them. kEarly: at once, or when the stream has done what
// they wait for.
enum class CopiesAside { kLate, kEarly };

struct EmulatedDeviceOptions {
  uint64_t memory_bytes = uint64_t{4} << 30;
  bool eager = false;  // each piece of work is done before the call that queues it returns
  CopiesAside aside = CopiesAside::kLate;
  bool records = true;           // false: BeginGraph() fails
  bool recordings_fail = false;  // EndGraph() does
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
  void* Stream() override { return &Own(); }
  void Copy(void* to, const void* from, size_t bytes) override;
  void Zero(void* memory, size_t bytes) override;
  void Synchronize() override;
  void CopyAside(void* to, const void* from, size_t bytes) override;
  void AsideAfterStream() override;
  void StreamAfterAside() override;
  absl::Status BeginGraph() override;
  absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() override;

  // Of kernels, not through graphs.
  uint64_t launches() const { return stream_.launches(); }
  // By Copy() from or to page-locked memory.
  uint64_t copied_bytes() const { return copied_bytes_.load(std::memory_order_relaxed); }
  uint64_t synchronizations() const { return synchronizations_.load(std::memory_order_relaxed); }

 private:
  struct CopyWork {
    uint64_t after;  // marks of the stream
    void* to;
    const void* from;
    size_t bytes;
  };
  bool Records() const { return recorder_.load() == std::this_thread::get_id(); }
  // The stream, or for who records what is recorded.
  simt::EmulatedStream& Own() { return Records() ? recorded_ : stream_; }
  bool OfHost(const void* memory) const;
  // Of the first `upto`, those up to one whose mark the stream has not reached.
  void RunAside(uint64_t upto);
  void RunAll();

  const EmulatedDeviceOptions options_;
  simt::EmulatedStream stream_;
  std::atomic<std::thread::id> recorder_ = {};
  simt::EmulatedStream recorded_{/*eager=*/false};
  std::atomic<uint64_t> synchronizations_ = 0;
  std::atomic<uint64_t> copied_bytes_ = 0;
  mutable Mutex mutex_;
  std::map<std::byte*, size_t> memory_ GUARDED_BY(mutex_);
  std::map<std::byte*, size_t> host_memory_ GUARDED_BY(mutex_);
  uint64_t used_ GUARDED_BY(mutex_) = 0;
  Mutex aside_mutex_;
  std::deque<CopyWork> aside_ GUARDED_BY(aside_mutex_);
  uint64_t aside_queued_ GUARDED_BY(aside_mutex_) = 0;
  uint64_t aside_done_ GUARDED_BY(aside_mutex_) = 0;
  uint64_t marks_ GUARDED_BY(aside_mutex_) = 0;
  uint64_t marks_reached_ GUARDED_BY(aside_mutex_) = 0;  // by the stream
};

}  // namespace moepool
