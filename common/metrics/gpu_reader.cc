// See gpu_reader.h. The few declarations of NVML's that are needed are repeated here, since its header comes
// with CUDA's toolkit and this is built without one. Source: NVML API reference,
// https://docs.nvidia.com/deploy/nvml-api/
#include "common/metrics/gpu_reader.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "common/base/log.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"

namespace moepool {

// The library opened, and its functions. Those that a driver may lack are null then.
struct NvmlLibrary {
  using Result = int;  // nvmlReturn_t
  using Device = void*;
  struct Memory {  // nvmlMemory_t
    unsigned long long total;
    unsigned long long free;
    unsigned long long used;
  };
  struct Utilization {  // nvmlUtilization_t, in percent
    unsigned int gpu;
    unsigned int memory;
  };

  ~NvmlLibrary() {
    if (initialised) shutdown();
    if (library != nullptr) dlclose(library);
  }

  void* library = nullptr;
  bool initialised = false;
  Result (*init)() = nullptr;
  Result (*shutdown)() = nullptr;
  const char* (*error_string)(Result) = nullptr;
  Result (*handle_by_bus_id)(const char*, Device*) = nullptr;
  Result (*handle_by_uuid)(const char*, Device*) = nullptr;
  Result (*name)(Device, char*, unsigned int) = nullptr;
  Result (*uuid)(Device, char*, unsigned int) = nullptr;
  Result (*memory)(Device, Memory*) = nullptr;
  Result (*utilization)(Device, Utilization*) = nullptr;
  Result (*temperature)(Device, int sensor, unsigned int* celsius) = nullptr;
  Result (*power)(Device, unsigned int* milliwatts) = nullptr;
};

namespace {

constexpr NvmlLibrary::Result kSuccess = 0;
constexpr int kCoreSensor = 0;  // NVML_TEMPERATURE_GPU
constexpr absl::Duration kFresh = absl::Seconds(1);
constexpr size_t kTextBytes = 96;  // NVML's own limits on names and UUIDs

template <typename Function>
bool Find(void* library, const char* symbol, Function* function) {
  *function = reinterpret_cast<Function>(dlsym(library, symbol));
  return *function != nullptr;
}

absl::StatusOr<std::unique_ptr<NvmlLibrary>> OpenLibrary(const std::string& path) {
  auto nvml = std::make_unique<NvmlLibrary>();
  nvml->library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (nvml->library == nullptr) {
    const char* const why = dlerror();
    return absl::UnavailableError(StrCat("cannot open ", path, ": ", why == nullptr ? "unknown" : why));
  }
  const auto missing = [&](const char* symbol) {
    return absl::UnimplementedError(StrCat(path, " has no ", symbol));
  };
  void* const library = nvml->library;
  if (!Find(library, "nvmlShutdown", &nvml->shutdown)) return missing("nvmlShutdown");
  if (!Find(library, "nvmlErrorString", &nvml->error_string)) return missing("nvmlErrorString");
  if (!Find(library, "nvmlDeviceGetHandleByPciBusId_v2", &nvml->handle_by_bus_id))
    return missing("nvmlDeviceGetHandleByPciBusId_v2");
  if (!Find(library, "nvmlDeviceGetHandleByUUID", &nvml->handle_by_uuid))
    return missing("nvmlDeviceGetHandleByUUID");
  if (!Find(library, "nvmlDeviceGetName", &nvml->name)) return missing("nvmlDeviceGetName");
  if (!Find(library, "nvmlDeviceGetUUID", &nvml->uuid)) return missing("nvmlDeviceGetUUID");
  if (!Find(library, "nvmlDeviceGetMemoryInfo", &nvml->memory)) return missing("nvmlDeviceGetMemoryInfo");
  if (!Find(library, "nvmlInit_v2", &nvml->init)) return missing("nvmlInit_v2");
  Find(library, "nvmlDeviceGetUtilizationRates", &nvml->utilization);
  Find(library, "nvmlDeviceGetTemperature", &nvml->temperature);
  Find(library, "nvmlDeviceGetPowerUsage", &nvml->power);
  if (const NvmlLibrary::Result result = nvml->init(); result != kSuccess) {
    return absl::UnavailableError(StrCat(path, ": nvmlInit_v2: ", nvml->error_string(result)));
  }
  nvml->initialised = true;
  return nvml;
}

std::string Text(NvmlLibrary::Result (*function)(NvmlLibrary::Device, char*, unsigned int),
                 NvmlLibrary::Device device) {
  std::array<char, kTextBytes> text = {};
  // The last byte stays 0 whatever the library writes.
  if (function(device, text.data(), kTextBytes - 1) != kSuccess) return "";
  return text.data();
}

GpuReading ReadFrom(const NvmlLibrary& nvml, NvmlLibrary::Device device) {
  GpuReading reading;
  reading.name = Text(nvml.name, device);
  reading.uuid = Text(nvml.uuid, device);
  if (NvmlLibrary::Memory memory = {}; nvml.memory(device, &memory) == kSuccess) {
    reading.memory_used_bytes = memory.used;
    reading.memory_total_bytes = memory.total;
  }
  if (NvmlLibrary::Utilization use = {};
      nvml.utilization != nullptr && nvml.utilization(device, &use) == kSuccess) {
    reading.utilization_ratio = use.gpu / 100.0;
  }
  if (unsigned int celsius = 0;
      nvml.temperature != nullptr && nvml.temperature(device, kCoreSensor, &celsius) == kSuccess) {
    reading.temperature_celsius = celsius;
  }
  if (unsigned int milliwatts = 0; nvml.power != nullptr && nvml.power(device, &milliwatts) == kSuccess) {
    reading.power_watts = milliwatts / 1000.0;
  }
  return reading;
}

}  // namespace

GpuReader::GpuReader(std::unique_ptr<NvmlLibrary> nvml, void* handle, Clock clock)
    : nvml_(std::move(nvml)), handle_(handle), clock_(std::move(clock)) {}

GpuReader::~GpuReader() = default;

absl::StatusOr<std::unique_ptr<GpuReader>> GpuReader::Open(const std::string& device,
                                                           const std::string& library, Clock clock) {
  MOEPOOL_ASSIGN_OR_RETURN(std::unique_ptr<NvmlLibrary> nvml, OpenLibrary(library));
  const bool is_uuid = device.starts_with("GPU-") || device.starts_with("MIG-");
  NvmlLibrary::Device handle = nullptr;
  const NvmlLibrary::Result result =
      (is_uuid ? nvml->handle_by_uuid : nvml->handle_by_bus_id)(device.c_str(), &handle);
  if (result != kSuccess) {
    return absl::NotFoundError(StrCat(library, ": GPU ", device, ": ", nvml->error_string(result)));
  }
  return std::unique_ptr<GpuReader>(new GpuReader(std::move(nvml), handle, std::move(clock)));
}

GpuReading GpuReader::Read() {
  MutexLock lock(&mutex_);
  const absl::Time now = clock_();
  if (now - read_ >= kFresh) {
    reading_ = ReadFrom(*nvml_, handle_);
    read_ = now;
  }
  return reading_;
}

std::shared_ptr<GpuReader> OpenGpuReader(const std::string& device) {
  if (device.empty()) return nullptr;
  absl::StatusOr<std::unique_ptr<GpuReader>> reader = GpuReader::Open(device);
  if (reader.ok()) return *std::move(reader);
  Log(LogLevel::kWarning, "no figures of the GPU",
      {{"gpu", device}, {"cause", std::string(ToStd(reader.status().message()))}});
  return nullptr;
}

}  // namespace moepool
