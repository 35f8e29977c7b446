// What the NCCL transport asks of the GPU that it shares with the backend: memory, and streams of its own
// that can be asked whether they are done, so that a wait can have a deadline. Unlike the backend's device it
// reports what fails, because gRPC can take over. No CUDA header: tests have one over host memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace moepool {

// Memory of the device, and where asked for as much of the host, page-locked.
struct NcclBuffer {
  uint8_t* host = nullptr;  // null: none
  uint8_t* device = nullptr;
  size_t bytes = 0;
};

// An order of work on the device. One thread at a time.
class NcclStream {
 public:
  // Waits for what is queued, so that its buffers are free afterwards: a communicator whose transfers may
  // hang is aborted before.
  virtual ~NcclStream() = default;
  virtual void* handle() = 0;  // cudaStream_t
  virtual absl::Status Copy(void* to, const void* from, size_t bytes) = 0;
  // Moves the mark behind all that is queued.
  virtual absl::Status Mark() = 0;
  // Whether the mark has been reached. Never waits.
  virtual absl::StatusOr<bool> Reached() = 0;
};

// Thread-safe.
class NcclDevice {
 public:
  virtual ~NcclDevice() = default;
  // Makes it the device of the calling thread, for NCCL's calls.
  virtual absl::Status Bind() = 0;
  virtual absl::StatusOr<std::unique_ptr<NcclStream>> NewStream() = 0;
  // Aligned to 256. ResourceExhausted where there is no such memory left.
  virtual absl::StatusOr<NcclBuffer> Allocate(size_t bytes, bool with_host) = 0;
  virtual void Free(const NcclBuffer& buffer) = 0;
};

// The GPU that CUDA counts as `ordinal`. Unimplemented in a build without CUDA; otherwise what CUDA says.
absl::StatusOr<std::unique_ptr<NcclDevice>> MakeCudaNcclDevice(int ordinal);

}  // namespace moepool
