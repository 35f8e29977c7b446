// The emulated device with other kernels, or otherwise altered: for tests that want a device with a fault.
#pragma once

#include <string>

#include "common/kernels/cuda/cuda_kernels.h"
#include "tests/support/simt/emulated_device.h"

namespace moepool {

class DeviceOfKernels : public Device {
 public:
  explicit DeviceOfKernels(const CudaKernels& kernels, const EmulatedDeviceOptions& options = {})
      : device_(options), kernels_(kernels) {}
  std::string Description() const override { return device_.Description(); }
  std::string PciBusId() const override { return device_.PciBusId(); }
  const CudaKernels& Kernels() const override { return kernels_; }
  DeviceMemoryInfo Memory() const override { return device_.Memory(); }
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override { return device_.Allocate(bytes); }
  void Free(std::byte* memory) override { device_.Free(memory); }
  absl::StatusOr<std::byte*> AllocateHost(size_t bytes) override { return device_.AllocateHost(bytes); }
  void FreeHost(std::byte* memory) override { device_.FreeHost(memory); }
  void* Stream() override { return device_.Stream(); }
  void Copy(void* to, const void* from, size_t bytes) override { device_.Copy(to, from, bytes); }
  void Zero(void* memory, size_t bytes) override { device_.Zero(memory, bytes); }
  void Synchronize() override { device_.Synchronize(); }
  void CopyAside(void* to, const void* from, size_t bytes) override { device_.CopyAside(to, from, bytes); }
  void AsideAfterStream() override { device_.AsideAfterStream(); }
  void StreamAfterAside() override { device_.StreamAfterAside(); }
  absl::Status BeginGraph() override { return device_.BeginGraph(); }
  absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() override { return device_.EndGraph(); }

 private:
  EmulatedDevice device_;
  const CudaKernels kernels_;
};

}  // namespace moepool
