// Memory of the device and page-locked memory of the host, within what may be taken of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/backend/cuda/device.h"
#include "common/base/mutex.h"

namespace moepool {

// What the device holds, by role, and how much it may.
class DeviceBudget {
 public:
  explicit DeviceBudget(uint64_t limit_bytes) : limit_(limit_bytes) {}
  // kWorking: what operations work in, beside what they are given.
  enum class Role { kWeights, kBuffers, kWorking, kCopies };
  // ResourceExhausted names the bytes of each role and the limit.
  absl::Status Take(Role role, uint64_t bytes);
  // Whatever the limit.
  void TakeAnyway(Role role, uint64_t bytes);
  void Return(Role role, uint64_t bytes);
  uint64_t used(Role role);
  uint64_t limit() const { return limit_; }

 private:
  uint64_t& Used(Role role) REQUIRES(mutex_) { return used_[static_cast<size_t>(role)]; }
  const uint64_t limit_;
  Mutex mutex_;
  std::array<uint64_t, 4> used_ GUARDED_BY(mutex_) = {};
};

// Memory of the device within the budget.
class DeviceBlock {
 public:
  static absl::StatusOr<std::unique_ptr<DeviceBlock>> Create(Device* device, DeviceBudget* budget,
                                                             DeviceBudget::Role role, size_t bytes);
  ~DeviceBlock();
  DeviceBlock(const DeviceBlock&) = delete;
  DeviceBlock& operator=(const DeviceBlock&) = delete;
  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  DeviceBlock(Device* device, DeviceBudget* budget, DeviceBudget::Role role, size_t bytes)
      : device_(device), budget_(budget), role_(role), bytes_(bytes) {}
  Device* const device_;
  DeviceBudget* const budget_;
  const DeviceBudget::Role role_;
  const size_t bytes_;
  std::byte* data_ = nullptr;
};

// Page-locked memory of the host, within what all of them may take.
class PinnedBlock {
 public:
  // ResourceExhausted names the bytes.
  static absl::StatusOr<std::unique_ptr<PinnedBlock>> Create(Device* device, DeviceBudget* budget,
                                                             size_t bytes);
  ~PinnedBlock();
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  std::byte* data() const { return data_; }

 private:
  PinnedBlock(Device* device, DeviceBudget* budget, size_t bytes)
      : device_(device), budget_(budget), bytes_(bytes) {}
  Device* const device_;
  DeviceBudget* const budget_;
  const size_t bytes_;
  std::byte* data_ = nullptr;
};

}  // namespace moepool
