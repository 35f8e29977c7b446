// See nvml_stand_in.h. MOEPOOL_WITHOUT_MEMORY leaves out a function that is needed, MOEPOOL_WITHOUT_POWER one
// that is not.
#include "tests/support/nvml/nvml_stand_in.h"

#include <cstring>
#include <string_view>

namespace {

moepool::NvmlStandIn state;
int gpu;  // its address is the device's handle

struct Memory {
  unsigned long long total, free, used;
};
struct Utilization {
  unsigned int gpu, memory;
};

int Find(std::string_view asked, std::string_view known, void** device) {
  if (state.initialised == 0) return 1;  // NVML_ERROR_UNINITIALIZED
  if (asked != known) return moepool::NvmlStandIn::kNotFound;
  *device = &gpu;
  return 0;
}

int Write(std::string_view text, char* to, unsigned int bytes) {
  if (text.size() + 1 > bytes) return 7;  // NVML_ERROR_INSUFFICIENT_SIZE
  std::memcpy(to, text.data(), text.size());
  to[text.size()] = 0;
  return 0;
}

int Known(const void* device) { return device == &gpu ? 0 : 2; }  // NVML_ERROR_INVALID_ARGUMENT

}  // namespace

extern "C" {

moepool::NvmlStandIn* moepool_nvml_stand_in() { return &state; }

int nvmlInit_v2() {
  if (state.init_result == 0) ++state.initialised;
  return state.init_result;
}

int nvmlShutdown() {
  --state.initialised;
  return 0;
}

const char* nvmlErrorString(int result) {
  return result == moepool::NvmlStandIn::kDriverNotLoaded ? "Driver Not Loaded"
         : result == moepool::NvmlStandIn::kNotFound      ? "Not Found"
                                                          : "Unknown Error";
}

int nvmlDeviceGetHandleByPciBusId_v2(const char* bus_id, void** device) {
  return Find(bus_id, moepool::NvmlStandIn::kBusId, device);
}

int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
  return Find(uuid, moepool::NvmlStandIn::kUuid, device);
}

int nvmlDeviceGetName(void* device, char* name, unsigned int bytes) {
  if (state.long_name) {
    std::memset(name, 'n', bytes);
    return 0;
  }
  return Known(device) != 0 ? Known(device) : Write("NVIDIA GeForce RTX 3090", name, bytes);
}

int nvmlDeviceGetUUID(void* device, char* uuid, unsigned int bytes) {
  return Known(device) != 0 ? Known(device) : Write(moepool::NvmlStandIn::kUuid, uuid, bytes);
}

#ifndef MOEPOOL_WITHOUT_MEMORY
int nvmlDeviceGetMemoryInfo(void* device, Memory* memory) {
  ++state.memory_calls;
  *memory = {24'000, 24'000 - state.used_bytes, state.used_bytes};
  return Known(device);
}
#endif

int nvmlDeviceGetUtilizationRates(void*, Utilization* use) {
  *use = {97, 40};
  return state.utilization_result;
}

int nvmlDeviceGetTemperature(void*, int sensor, unsigned int* celsius) {
  *celsius = sensor == 0 ? 71 : 0;
  return state.temperature_result;
}

#ifndef MOEPOOL_WITHOUT_POWER
int nvmlDeviceGetPowerUsage(void*, unsigned int* milliwatts) {
  *milliwatts = 347'500;
  return state.power_result;
}
#endif
}
