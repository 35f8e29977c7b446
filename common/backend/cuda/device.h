// What the CUDA backend asks of a GPU: memory, copies and an order of work. No CUDA header, so that the
// emulation of tests/support/simt can stand in for it. Work is queued on one stream and runs in the order of
// the calls; copies may also go aside of it, on a second one. A call returns before its work is done.
//
// A device that fails (a lost GPU, an illegal address) does not recover within the process: each call then
// ends it with a message, and the pool treats the process as any other that died.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moepool {

struct CudaKernels;

struct DeviceMemoryInfo {
  uint64_t free_bytes = 0;
  uint64_t total_bytes = 0;
};

// Work that was recorded. Ends before its device does.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;  // what of it is queued is done all the same
  // Queues all of it, with the arguments that it was recorded with, at the price of about one launch.
  virtual void Launch() = 0;
  virtual size_t pieces() const = 0;  // launches, copies and clearings
};

// Allocate(), Copy() and Zero() may be called by several threads at once.
class Device {
 public:
  virtual ~Device() = default;
  virtual std::string Description() const = 0;  // "NVIDIA GeForce RTX 3090, compute 8.6"
  virtual std::string PciBusId() const = 0;     // "0000:01:00.0"; empty where there is none
  virtual const CudaKernels& Kernels() const = 0;
  virtual DeviceMemoryInfo Memory() const = 0;

  // Aligned to 256 bytes. ResourceExhausted names the bytes asked for and those that are free.
  virtual absl::StatusOr<std::byte*> Allocate(size_t bytes) = 0;
  // Waits for all work first, that aside too, as FreeHost() does. Null: nothing.
  virtual void Free(std::byte* memory) = 0;
  // Page-locked memory of the host, which kernels reach by the same address.
  virtual absl::StatusOr<std::byte*> AllocateHost(size_t bytes) = 0;
  virtual void FreeHost(std::byte* memory) = 0;

  virtual void* Stream() = 0;  // for launches (simt.h)
  // Between the device and page-locked memory, or within the device.
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;
  virtual void Zero(void* memory, size_t bytes) = 0;
  virtual void Synchronize() = 0;  // waits for the stream

  // As Copy(), aside of the stream: among themselves these run in the order of the calls, and they and the
  // stream wait for each other only as the next two say. One caller at a time of all three.
  virtual void CopyAside(void* to, const void* from, size_t bytes) = 0;
  // Copies aside from here on begin when what the stream has by now is done.
  virtual void AsideAfterStream() = 0;
  // What the stream is given from here on begins when the copies aside that there are by now are done.
  virtual void StreamAfterAside() = 0;

  // Until EndGraph() what the calling thread gives Stream(), Copy() and Zero() is recorded and not done. It
  // calls nothing else of the device meanwhile; other threads' work goes on, and they do not record. Not OK:
  // the device cannot, and no EndGraph() follows.
  virtual absl::Status BeginGraph() = 0;
  // Not OK: what was recorded is lost, and has not been done. The memory of a graph is outside of all limits.
  virtual absl::StatusOr<std::unique_ptr<DeviceGraph>> EndGraph() = 0;
};

}  // namespace moepool
