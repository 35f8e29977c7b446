// Reads a GPU's memory and load from NVIDIA's management library (NVML). It comes with the driver and is
// opened at run time, so that nothing is linked and a machine without it shows nothing.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/gpu_reading.h"
#include "common/base/mutex.h"

namespace moepool {

inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

struct NvmlLibrary;

// Thread-safe. NVML stays initialised for as long as this lives.
class GpuReader {
 public:
  using Clock = std::function<absl::Time()>;

  // `device` is the GPU's PCI bus id ("0000:01:00.0") or its UUID ("GPU-…", "MIG-…"): numbers of devices are
  // not the same for NVML as for CUDA, whose CUDA_VISIBLE_DEVICES NVML does not read.
  // Unavailable: there is no library, or it finds no driver. Unimplemented: the library lacks a function.
  // NotFound: no GPU of that name. Each names the library and what it said.
  static absl::StatusOr<std::unique_ptr<GpuReader>> Open(const std::string& device,
                                                         const std::string& library = kNvmlLibrary,
                                                         Clock clock = absl::Now);
  ~GpuReader();
  GpuReader(const GpuReader&) = delete;
  GpuReader& operator=(const GpuReader&) = delete;

  // As it was at most a second ago: the driver is asked no more often than that, however many ask here.
  GpuReading Read();

 private:
  GpuReader(std::unique_ptr<NvmlLibrary> nvml, void* handle, Clock clock);

  const std::unique_ptr<NvmlLibrary> nvml_;
  void* const handle_;  // NVML's, of the GPU
  const Clock clock_;
  Mutex mutex_;
  absl::Time read_ GUARDED_BY(mutex_) = absl::InfinitePast();
  GpuReading reading_ GUARDED_BY(mutex_);
};

// Null where `device` is empty, which is a backend that computes on no GPU, or where it cannot be read; the
// log then says why, since a process that computes is not held up by this.
std::shared_ptr<GpuReader> OpenGpuReader(const std::string& device);

}  // namespace moepool
