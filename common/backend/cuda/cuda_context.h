// What the operations of the CUDA backend share: the device, the page-locked memory through which host and
// device exchange bytes, and what kernels have found of rows that are not finite.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
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
  // process. What is recorded takes no memory: where there is less, the recording is spoilt.
  std::byte* Get(size_t bytes);

 private:
  void Release();

  CudaContext* const context_;
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
  // `budget` of what operations work in; null: nobody counts that. `fused` as CudaOptions::fused.
  explicit CudaContext(Device* device, DeviceBudget* budget = nullptr, bool fused = true);
  ~CudaContext();
  CudaContext(const CudaContext&) = delete;
  CudaContext& operator=(const CudaContext&) = delete;

  Mutex& mutex() { return mutex_; }
  Device& device() { return device_; }
  DeviceBudget* budget() { return budget_; }
  bool fused() const { return fused_; }
  const CudaKernels& kernels() const { return kernels_; }

  // Page-locked memory, aligned to 64 bytes, until the next Settle().
  std::byte* Stage(size_t bytes);
  // Where a kernel reports rows for `faults`, which Settle() brings over; what was reported for the same ones
  // since the last Settle() can be read there. After each Settle() the first few of kFaultRows rows at most
  // have the same places in turn, which recorded work relies on.
  DeviceFaults Report(RowFaults faults);
  // Waits for all work; then what was staged is free again and all faults are where they belong.
  void Settle();
  // As Fetch() of the operations, through `scratch`.
  void Fetch(std::span<Fetched> wanted, HostScratch* scratch);

  // --- Of work that is recorded (cuda_graphs.h), by the calling thread. ---

  static constexpr size_t kFaultRows = 64;
  // From here on the calling thread's operations are recorded. What they need is there already: nothing is
  // staged, and no memory is taken.
  void BeginRecording();
  // True where what was recorded can be used: nothing has spoilt it, and nothing that it relies on, memory to
  // work in and places of faults, has changed on the way.
  bool EndRecording();
  bool Records() const { return recorder_ == std::this_thread::get_id(); }
  void Spoil() { spoilt_ = true; }
  // How often memory that operations work in has been given up, after which nothing recorded before is of
  // use. For any thread, without `mutex`.
  uint64_t moves() const { return moves_.load(std::memory_order_relaxed); }
  void Moved() { moves_.fetch_add(1, std::memory_order_relaxed); }

 private:
  static constexpr size_t kFaultPlaces = 8;
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
  const bool fused_;
  const CudaKernels& kernels_;
  Mutex mutex_;
  std::vector<Chunk> chunks_;
  size_t used_ = 0;  // of the last chunk
  std::vector<Reported> reported_;
  uint8_t* const fault_places_;  // [kFaultPlaces, kFaultRows], page-locked
  size_t fault_places_used_ = 0;
  uint64_t settled_ = 0;  // times
  std::atomic<uint64_t> moves_ = 0;
  std::thread::id recorder_;  // none: nothing is recorded
  bool spoilt_ = false;
  uint64_t moves_before_ = 0;  // the recording
  uint64_t settled_before_ = 0;
};

// Arrays of the host that go to the device together.
class Upload {
 public:
  // Its place, which Send() makes an address of. The bytes are read at Send().
  size_t Add(const void* bytes, size_t count) { return Add(bytes, count, count); }
  template <typename T>
  size_t Add(std::span<const T> values) {
    return Add(values.data(), values.size_bytes());
  }
  template <typename T>
  size_t Add(const std::vector<T>& values) {
    return Add(values.data(), values.size() * sizeof(T));
  }
  // As many, and room for more up to `capacity`, whose bytes are anything.
  template <typename T>
  size_t Add(const std::vector<T>& values, size_t capacity) {
    return Add(values.data(), values.size() * sizeof(T), capacity * sizeof(T));
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
  size_t Add(const void* bytes, size_t count, size_t capacity);

  std::vector<Piece> pieces_;
  size_t bytes_ = 0;
  std::byte* base_ = nullptr;
};

}  // namespace moepool
