// See cuda_device.h.
#include <cuda_runtime.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
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

struct Streams {
  cudaStream_t work = nullptr;
  cudaStream_t aside = nullptr;
  cudaStream_t recorded = nullptr;  // nothing is ever done on it
  // A stream waits for what an event stood for when it was told to, so that one serves each way for ever.
  cudaEvent_t worked = nullptr;
  cudaEvent_t copied = nullptr;
};

cudaError_t Create(Streams* streams) {
  for (cudaStream_t* stream : {&streams->work, &streams->aside, &streams->recorded}) {
    const cudaError_t error = cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
    if (error != cudaSuccess) return error;
  }
  for (cudaEvent_t* event : {&streams->worked, &streams->copied}) {
    const cudaError_t error = cudaEventCreateWithFlags(event, cudaEventDisableTiming);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

class CudaDevice;

class CudaGraph final : public DeviceGraph {
 public:
  // Owns `graph`.
  CudaGraph(CudaDevice* device, cudaGraphExec_t graph, size_t pieces)
      : device_(*device), graph_(graph), pieces_(pieces) {}
  ~CudaGraph() override;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void Launch() override;
  size_t pieces() const override { return pieces_; }

 private:
  CudaDevice& device_;
  const cudaGraphExec_t graph_;
  const size_t pieces_;
};

class CudaDevice final : public Device {
 public:
  CudaDevice(int ordinal, std::string description, const Streams& streams)
      : ordinal_(ordinal), description_(std::move(description)), streams_(streams) {}
  ~CudaDevice() override {
    SynchronizeAll();
    for (const cudaEvent_t event : {streams_.worked, streams_.copied}) {
      Check(cudaEventDestroy(event), description_, "giving up an event");
    }
    for (const cudaStream_t stream : {streams_.work, streams_.aside, streams_.recorded}) {
      Check(cudaStreamDestroy(stream), description_, "giving up a stream");
    }
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
    SynchronizeAll();
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
    SynchronizeAll();
    Check(cudaFreeHost(memory), description_, "freeing page-locked memory");
  }

  void* Stream() override {
    Enter();
    return Own();
  }
  // With unified addresses the runtime sees from a pointer where it is.
  void Copy(void* to, const void* from, size_t bytes) override {
    Enter();
    CheckLaunches();
    if (bytes == 0) return;
    CheckWork(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, Own()), "copying");
  }
  void Zero(void* memory, size_t bytes) override {
    Enter();
    CheckLaunches();
    if (bytes == 0) return;
    CheckWork(cudaMemsetAsync(memory, 0, bytes, Own()), "clearing memory");
  }
  void Synchronize() override {
    Enter();
    CheckLaunches();
    Check(cudaStreamSynchronize(streams_.work), description_, "waiting for its work");
  }

  void CopyAside(void* to, const void* from, size_t bytes) override {
    Enter();
    if (bytes == 0) return;
    Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, streams_.aside), description_, "copying aside");
  }
  void AsideAfterStream() override { Order(streams_.work, streams_.worked, streams_.aside); }
  void StreamAfterAside() override { Order(streams_.aside, streams_.copied, streams_.work); }

  // On a stream of its own, so that other threads' work goes on; of this thread's calls alone CUDA refuses
  // those that a recording does not bear.
  absl::Status BeginGraph() override {
    Enter();
    CheckLaunches();
    recording_error_ = cudaStreamBeginCapture(streams_.recorded, cudaStreamCaptureModeThreadLocal);
    if (recording_error_ != cudaSuccess) return Failed("beginning to record");
    recorder_ = std::this_thread::get_id();
    return absl::OkStatus();
  }
  absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() override {
    CheckLaunches();
    recorder_ = std::thread::id();
    cudaGraph_t graph = nullptr;
    Note(cudaStreamEndCapture(streams_.recorded, &graph));
    size_t pieces = 0;
    cudaGraphExec_t executable = nullptr;
    if (recording_error_ == cudaSuccess) Note(cudaGraphGetNodes(graph, nullptr, &pieces));
    if (recording_error_ == cudaSuccess) Note(cudaGraphInstantiate(&executable, graph, 0));
    if (graph != nullptr) Note(cudaGraphDestroy(graph));
    if (recording_error_ != cudaSuccess) return Failed("recording");
    return std::make_unique<CudaGraph>(this, executable, pieces);
  }
  void Launch(cudaGraphExec_t graph) {
    Enter();
    CheckLaunches();
    Check(cudaGraphLaunch(graph, streams_.work), description_, "launching what was recorded");
  }
  // What of it is under way is done all the same.
  void Destroy(cudaGraphExec_t graph) {
    Enter();
    Check(cudaGraphExecDestroy(graph), description_, "giving up what was recorded");
  }

 private:
  bool Records() const { return recorder_.load() == std::this_thread::get_id(); }
  cudaStream_t Own() const { return Records() ? streams_.recorded : streams_.work; }
  // The first error of a recording, which costs that alone.
  void Note(cudaError_t error) const {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // it is told once more otherwise
    if (recording_error_ == cudaSuccess) recording_error_ = error;
  }
  absl::Status Failed(const char* doing) const {
    cudaGetLastError();
    return absl::UnavailableError(StrCat(description_, ": ", Text(recording_error_), " while ", doing));
  }
  void CheckWork(cudaError_t error, const char* doing) const {
    if (Records()) return Note(error);
    Check(error, description_, doing);
  }
  void Order(cudaStream_t first, cudaEvent_t event, cudaStream_t then) {
    Enter();
    CheckLaunches();
    Check(cudaEventRecord(event, first), description_, "marking a stream");
    Check(cudaStreamWaitEvent(then, event, 0), description_, "having a stream wait for another");
  }
  void SynchronizeAll() {
    Synchronize();
    Check(cudaStreamSynchronize(streams_.aside), description_, "waiting for copies");
  }
  // A thread has a current device of its own, which launches and allocations go to.
  void Enter() const { Check(cudaSetDevice(ordinal_), description_, "making it the thread's device"); }
  // A launch reports no error itself, and one that was refused is told by this alone.
  void CheckLaunches() const { CheckWork(cudaGetLastError(), "starting a kernel"); }

  const int ordinal_;
  const std::string description_;
  const Streams streams_;
  std::atomic<std::thread::id> recorder_ = {};  // none: nothing is recorded
  mutable cudaError_t recording_error_ = cudaSuccess;
};

CudaGraph::~CudaGraph() { device_.Destroy(graph_); }
void CudaGraph::Launch() { device_.Launch(graph_); }

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
  Streams streams;
  error = cudaSetDevice(ordinal);
  if (error == cudaSuccess) error = Create(&streams);
  if (error != cudaSuccess) {
    return absl::UnavailableError(
        StrCat("device ", ordinal, " (", description, "): ", Text(error), " while starting it"));
  }
  return std::make_unique<CudaDevice>(ordinal, description, streams);
}

}  // namespace moepool
