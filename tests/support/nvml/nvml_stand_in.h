// A library that answers as NVIDIA's management library does, for one GPU of the test's making. It is opened
// with dlopen as the real one is; `moepool_nvml_stand_in` in it gives the test this.
#pragma once

#include <atomic>

namespace moepool {

struct NvmlStandIn {
  static constexpr char kBusId[] = "0000:01:00.0";
  static constexpr char kUuid[] = "GPU-11111111-2222-3333-4444-555555555555";
  static constexpr int kNotSupported = 3;     // NVML_ERROR_NOT_SUPPORTED
  static constexpr int kNotFound = 6;         // NVML_ERROR_NOT_FOUND
  static constexpr int kDriverNotLoaded = 9;  // NVML_ERROR_DRIVER_NOT_LOADED

  // As at the start; a library that is closed may keep its state.
  void Reset() {
    init_result = initialised = memory_calls = 0;
    utilization_result = temperature_result = power_result = 0;
    used_bytes = 20'000;
    long_name = false;
  }

  std::atomic<int> init_result = 0;
  std::atomic<int> initialised = 0;   // nvmlInit_v2 less nvmlShutdown
  std::atomic<int> memory_calls = 0;  // of nvmlDeviceGetMemoryInfo
  std::atomic<int> utilization_result = 0;
  std::atomic<int> temperature_result = 0;
  std::atomic<int> power_result = 0;
  std::atomic<unsigned long long> used_bytes = 20'000;
  std::atomic<bool> long_name = false;  // fills the whole buffer, and ends it with no 0
};

using NvmlStandInFunction = NvmlStandIn* (*)();

}  // namespace moepool
