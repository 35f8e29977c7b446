// What the operations of the CUDA backend share: the device, the page-locked memory through which host and
// device exchange bytes, and what kernels have found of rows that are not finite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/backend/backend.h"
#include "common/backend/cuda/device.h"
#include "common/backend/cuda/device_memory.h"
#include "common/base/mutex.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {

class CudaContext;

// Device memory that operations work in: what was reserved, or the largest call so far where that is more.
// What was in it is lost where it grows. In a process that reserves before it serves that leaves: calls of
// more rows than were reserved for, as a worker's are whose router has a larger --step-tokens than
// kReservedRows; and tables of attention past kTableBytes.
class DeviceScratch {
 public:
  explicit DeviceScratch(CudaContext* context);
  ~DeviceScratch() { Release(); }
  DeviceScratch(const DeviceScratch&) = delete;
  DeviceScratch& operator=(const DeviceScratch&) = delete;
  // At least `bytes` from now on. ResourceExhausted as of the budget and the device.
  absl::Status Reserve(size_t bytes);
  // At least `bytes`, aligned to 256, past the budget if need be. A device without that much memory ends the
  // process.
  std::byte* Get(size_t bytes);

 private:
  void Release();

  Device* const device_;
  DeviceBudget* const budget_;  // may be null
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Page-locked memory of the host, likewise.
class HostScratch {
 public:
  explicit HostScratch(Device* device) : device_(device) {}
  ~HostScratch() { device_->FreeHost(data_); }
  HostScratch(const HostScratch&) = delete;
  HostScratch& operator=(const HostScratch&) = delete;
  std::byte* Get(size_t bytes);

 private:
  Device* const device_;
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Its members are for who holds `mutex`, which makes the callers of trunk and experts take turns.
class CudaContext {
 public:
  // `budget` of what operations work in; null: nobody counts that.
  explicit CudaContext(Device* device, DeviceBudget* budget = nullptr)
      : device_(*device), budget_(budget), kernels_(device->Kernels()) {}
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  Mutex& mutex() { return mutex_; }
  Device& device() { return device_; }
  DeviceBudget* budget() { return budget_; }
  const CudaKernels& kernels() const { return kernels_; }

  // Page-locked memory, aligned to 64 bytes, until the next Settle().
  std::byte* Stage(size_t bytes);
  // Where a kernel reports rows for `faults`, which Settle() brings over; what was reported for the same ones
  // since the last Settle() can be read there.
  DeviceFaults Report(RowFaults faults);
  // Waits for all work; then what was staged is free again and all faults are where they belong.
  void Settle();
  // As Fetch() of the operations, through `scratch`.
  void Fetch(std::span<Fetched> wanted, HostScratch* scratch);

 private:
  struct Chunk {
    std::byte* data;
    size_t bytes;
  };
  struct Reported {
    RowFaults to;
    uint8_t* from;
  };

  Device& device_;
  DeviceBudget* const budget_;
  const CudaKernels& kernels_;
  Mutex mutex_;
  std::vector<Chunk> chunks_;
  size_t used_ = 0;  // of the last chunk
  std::vector<Reported> reported_;
};

// Arrays of the host that go to the device together.
class Upload {
 public:
  // Its place, which Send() makes an address of. The bytes are read at Send().
  size_t Add(const void* bytes, size_t count);
  template <typename T>
  size_t Add(std::span<const T> values) {
    return Add(values.data(), values.size_bytes());
  }
  template <typename T>
  size_t Add(const std::vector<T>& values) {
    return Add(values.data(), values.size() * sizeof(T));
  }
  // [rows, cols] of rows that lie apart.
  size_t AddRows(std::span<const float* const> rows, size_t cols);
  // Finds the memory of what has been added, so that At() can be asked before Send() to the same.
  void Place(DeviceScratch* to) { base_ = to->Get(bytes_); }
  // Queues the copy, after which all of it is to be added anew. The memory of `to` holds it until the next
  // Send() there.
  void Send(CudaContext* context, DeviceScratch* to);
  template <typename T>
  T* At(size_t place) const {
    return reinterpret_cast<T*>(base_ + place);
  }

 private:
  struct Piece {
    const void* bytes;
    size_t count;
    size_t place;
  };
  std::vector<Piece> pieces_;
  size_t bytes_ = 0;
  std::byte* base_ = nullptr;
};

}  // namespace moepool
