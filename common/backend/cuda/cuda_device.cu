// See cuda_device.h.
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "common/backend/cuda/cuda_device.h"
#include "common/base/str.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {
namespace {

// Of the int8 products and the asynchronous copies that the kernels are compiled to.
constexpr int kLeastComputeCapability = 8;

std::string Text(cudaError_t error) {
  return StrCat(cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
}

// Ends the process where `error` is one: what CUDA reports after the start does not pass (device.h). It may
// stem from work that was queued before.
void Check(cudaError_t error, const std::string& device, const char* doing) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "moepool: %s: %s while %s\n", device.c_str(), Text(error).c_str(), doing);
  std::abort();
}

// 13000 is 13.0.
std::string VersionText(int version) { return StrCat(version / 1000, ".", version % 1000 / 10); }

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, std::string description, cudaStream_t stream)
      : ordinal_(ordinal), description_(std::move(description)), stream_(stream) {}
  ~CudaDevice() override {
    Synchronize();
    Check(cudaStreamDestroy(stream_), description_, "giving up its stream");
  }
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  std::string Description() const override { return description_; }
  std::string PciBusId() const override {
    char id[32] = "";
    Check(cudaDeviceGetPCIBusId(id, sizeof id, ordinal_), description_, "asking for its PCI bus");
    return id;
  }
  const CudaKernels& Kernels() const override { return device::Kernels(); }

  DeviceMemoryInfo Memory() const override {
    Enter();
    size_t free = 0;
    size_t total = 0;
    Check(cudaMemGetInfo(&free, &total), description_, "asking for its memory");
    return {free, total};
  }

  absl::StatusOr<std::byte*> Allocate(size_t bytes) override {
    Enter();
    void* memory = nullptr;
    const cudaError_t error = cudaMalloc(&memory, bytes == 0 ? 1 : bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // it is told once more otherwise
      const DeviceMemoryInfo left = Memory();
      return absl::ResourceExhaustedError(StrCat(description_, ": ", bytes,
                                                 " bytes of device memory, of which ", left.free_bytes,
                                                 " of ", left.total_bytes, " are free"));
    }
    Check(error, description_, "allocating device memory");
    return static_cast<std::byte*>(memory);
  }
  void Free(std::byte* memory) override {
    if (memory == nullptr) return;
    Synchronize();
    Check(cudaFree(memory), description_, "freeing device memory");
  }

  absl::StatusOr<std::byte*> AllocateHost(size_t bytes) override {
    Enter();
    void* memory = nullptr;
    const cudaError_t error =
        cudaHostAlloc(&memory, bytes == 0 ? 1 : bytes, cudaHostAllocMapped | cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      return absl::ResourceExhaustedError(
          StrCat(description_, ": ", bytes, " bytes of page-locked memory of the host"));
    }
    Check(error, description_, "allocating page-locked memory");
    return static_cast<std::byte*>(memory);
  }
  void FreeHost(std::byte* memory) override {
    if (memory == nullptr) return;
    Synchronize();
    Check(cudaFreeHost(memory), description_, "freeing page-locked memory");
  }

  void* Stream() override {
    Enter();
    return stream_;
  }
  // With unified addresses the runtime sees from a pointer where it is.
  void Copy(void* to, const void* from, size_t bytes) override {
    Enter();
    CheckLaunches();
    if (bytes == 0) return;
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), description_, "copying");
  }
  void Zero(void* memory, size_t bytes) override {
    Enter();
    CheckLaunches();
    if (bytes == 0) return;
    Check(cudaMemsetAsync(memory, 0, bytes, stream_), description_, "clearing memory");
  }
  void Synchronize() override {
    Enter();
    CheckLaunches();
    Check(cudaStreamSynchronize(stream_), description_, "waiting for its work");
  }

 private:
  // A thread has a current device of its own, which launches and allocations go to.
  void Enter() const { Check(cudaSetDevice(ordinal_), description_, "making it the thread's device"); }
  // A launch reports no error itself, and one that was refused is told by this alone.
  void CheckLaunches() const { Check(cudaGetLastError(), description_, "starting a kernel"); }

  const int ordinal_;
  const std::string description_;
  const cudaStream_t stream_;
};

absl::Status CheckDriver() {
  int driver = 0;
  int runtime = 0;
  const cudaError_t error = cudaDriverGetVersion(&driver);
  if (error != cudaSuccess || driver == 0)
    return absl::FailedPreconditionError("no CUDA driver is installed");
  cudaRuntimeGetVersion(&runtime);
  // Within a major version a driver serves later runtimes too.
  if (driver / 1000 < runtime / 1000) {
    return absl::FailedPreconditionError(StrCat("the CUDA driver is of version ", VersionText(driver),
                                                ", and this build needs ", VersionText(runtime)));
  }
  return absl::OkStatus();
}

absl::StatusOr<int> CountDevices() {
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && devices == 0)) {
    return absl::FailedPreconditionError("the CUDA driver sees no GPU");
  }
  if (error != cudaSuccess) {
    return absl::FailedPreconditionError(StrCat("the CUDA driver does not start: ", Text(error)));
  }
  return devices;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> MakeCudaDevice(int ordinal) {
  const absl::Status driver = CheckDriver();
  if (!driver.ok()) return driver;
  const absl::StatusOr<int> devices = CountDevices();
  if (!devices.ok()) return devices.status();
  if (ordinal < 0 || ordinal >= *devices) {
    return absl::InvalidArgumentError(
        StrCat("device ", ordinal, ": this machine has ", *devices, ", counted from 0"));
  }
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, ordinal);
  if (error != cudaSuccess) {
    return absl::UnavailableError(StrCat("device ", ordinal, ": ", Text(error), " while asking what it is"));
  }
  const std::string description =
      StrCat(properties.name, ", compute ", properties.major, ".", properties.minor);
  if (properties.major < kLeastComputeCapability) {
    return absl::FailedPreconditionError(StrCat("device ", ordinal, " (", description, "): compute ",
                                                kLeastComputeCapability, ".0 is needed"));
  }
  if (properties.unifiedAddressing == 0) {
    return absl::FailedPreconditionError(
        StrCat("device ", ordinal, " (", description, "): host and device memory share no addresses"));
  }
  cudaStream_t stream = nullptr;
  error = cudaSetDevice(ordinal);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        StrCat("device ", ordinal, " (", description, "): ", Text(error), " while starting it"));
  }
  return std::make_unique<CudaDevice>(ordinal, description, stream);
}

}  // namespace moepool
