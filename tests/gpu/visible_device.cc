// See visible_device.h.
#include "tests/gpu/visible_device.h"

#include <cstdlib>
#include <string>
#include <utility>

#include "common/backend/cuda/cuda_device.h"

namespace moepool {
namespace {

// Done when it is launched.
class VisibleGraph final : public DeviceGraph {
 public:
  VisibleGraph(std::unique_ptr<DeviceGraph> graph, Device* gpu) : graph_(std::move(graph)), gpu_(*gpu) {}
  void Launch() override {
    graph_->Launch();
    gpu_.Synchronize();
  }
  size_t pieces() const override { return graph_->pieces(); }

 private:
  const std::unique_ptr<DeviceGraph> graph_;
  Device& gpu_;
};

// Of one thread.
class VisibleDevice final : public Device {
 public:
  explicit VisibleDevice(std::unique_ptr<Device> gpu) : gpu_(std::move(gpu)) {}
  std::string Description() const override { return gpu_->Description(); }
  std::string PciBusId() const override { return gpu_->PciBusId(); }
  const CudaKernels& Kernels() const override { return gpu_->Kernels(); }
  DeviceMemoryInfo Memory() const override { return gpu_->Memory(); }
  absl::StatusOr<std::byte*> Allocate(size_t bytes) override { return gpu_->AllocateHost(bytes); }
  void Free(std::byte* memory) override { gpu_->FreeHost(memory); }
  absl::StatusOr<std::byte*> AllocateHost(size_t bytes) override { return gpu_->AllocateHost(bytes); }
  void FreeHost(std::byte* memory) override { gpu_->FreeHost(memory); }
  void* Stream() override { return gpu_->Stream(); }
  void Copy(void* to, const void* from, size_t bytes) override {
    gpu_->Copy(to, from, bytes);
    if (!records_) gpu_->Synchronize();
  }
  void Zero(void* memory, size_t bytes) override {
    gpu_->Zero(memory, bytes);
    if (!records_) gpu_->Synchronize();
  }
  void Synchronize() override { gpu_->Synchronize(); }
  void CopyAside(void* to, const void* from, size_t bytes) override { Copy(to, from, bytes); }
  void AsideAfterStream() override {}
  void StreamAfterAside() override {}
  absl::Status BeginGraph() override {
    const absl::Status begun = gpu_->BeginGraph();
    records_ = begun.ok();
    return begun;
  }
  absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() override {
    records_ = false;
    absl::StatusOr<std::unique_ptr<DeviceGraph>> graph = gpu_->EndGraph();
    if (!graph.ok()) return graph.status();
    return std::make_unique<VisibleGraph>(*std::move(graph), gpu_.get());
  }

 private:
  bool records_ = false;
  const std::unique_ptr<Device> gpu_;
};

}  // namespace

std::unique_ptr<Device> MakeVisibleDevice() {
  setenv("CUDA_LAUNCH_BLOCKING", "1",
         1);  // read when CUDA starts: a launch returns when the kernel has ended
  return std::make_unique<VisibleDevice>(MakeCudaDevice(0).value());
}

}  // namespace moepool
