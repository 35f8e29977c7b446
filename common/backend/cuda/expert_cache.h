// Experts that do not fit the device lie in page-locked memory of the host; those lately used have a copy on
// the device. One caller at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/backend/backend.h"
#include "common/backend/cuda/device.h"
#include "common/kernels/cuda/cuda_kernels.h"

namespace moepool {

// Where kernels are to read an expert. `late`: copies aside bring it there, or may still write there.
struct PlacedExpert {
  DeviceExpert at;
  bool late = false;
};

class ExpertCache {
 public:
  // `memory` [bytes] on the device, aligned to 256.
  ExpertCache(Device* device, std::byte* memory, size_t bytes)
      : device_(*device), memory_(memory), bytes_(bytes) {}

  // A call begins: what Place() gives from here on stays on the device until the next Begin().
  void Begin() {
    ++call_;
    ordered_ = false;
  }
  // `expert`, whose matrices are in host memory, as kernels are to read it: a copy on the device, the least
  // recently used one making place, or where no copy may go the host's own, which is slow and always late. A
  // copy is made aside and begins at once. The stream waits for the copies before the next Begin().
  // `id` is that of these weights and of no others.
  PlacedExpert Place(uint64_t id, const DeviceExpert& expert);
  bool Has(uint64_t id) const;
  // Its copy, which it has, and which is free from the next Begin() on: for copies aside alone.
  DeviceExpert Take(uint64_t id, const DeviceExpert& expert);

  const ExpertCacheStats& stats() const { return stats_; }

 private:
  struct Slot {
    uint64_t id = 0;  // 0: free
    uint64_t call = 0;
  };
  // Cuts the memory into slots of `bytes`, all free.
  void Cut(size_t bytes);
  DeviceExpert InSlot(size_t slot, const DeviceExpert& expert) const;

  Device& device_;
  std::byte* const memory_;
  const size_t bytes_;
  size_t slot_bytes_ = 0;
  std::vector<Slot> slots_;
  uint64_t call_ = 0;
  bool ordered_ = false;  // copies of this call after what was queued before it
  ExpertCacheStats stats_;
};

// Of a matrix on the device.
constexpr size_t WeightBytes(const DeviceWeights& w) {
  return static_cast<size_t>((w.rows + 15) / 16) * static_cast<size_t>(w.group_bytes);
}

}  // namespace moepool
