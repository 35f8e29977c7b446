// See expert_cache.h. Copies begin after the kernels that read what they overwrite, which are of calls
// before.
#include "common/backend/cuda/expert_cache.h"

#include <algorithm>

#include "common/base/rounding.h"
#include "common/base/status_macros.h"

namespace moepool {
namespace {

constexpr size_t kAlignment = 256;
constexpr DeviceWeights DeviceExpert::*kMatrices[] = {&DeviceExpert::gate, &DeviceExpert::up,
                                                      &DeviceExpert::down};

size_t ExpertBytes(const DeviceExpert& expert) {
  size_t bytes = 0;
  for (const auto matrix : kMatrices) bytes += RoundUp(WeightBytes(expert.*matrix), kAlignment);
  return bytes;
}

}  // namespace

void ExpertCache::Cut(size_t bytes) {
  slot_bytes_ = bytes;
  slots_.assign(bytes_ / bytes, {});
}

DeviceExpert ExpertCache::InSlot(size_t slot, const DeviceExpert& expert) const {
  DeviceExpert placed = expert;
  std::byte* at = memory_ + slot * slot_bytes_;
  for (const auto matrix : kMatrices) {
    (placed.*matrix).data = reinterpret_cast<const uint8_t*>(at);
    at += RoundUp(WeightBytes(expert.*matrix), kAlignment);
  }
  return placed;
}

bool ExpertCache::Has(uint64_t id) const {
  return std::ranges::any_of(slots_, [id](const Slot& slot) { return slot.id == id; });
}

DeviceExpert ExpertCache::Take(uint64_t id, const DeviceExpert& expert) {
  const auto slot = std::ranges::find_if(slots_, [id](const Slot& s) { return s.id == id; });
  MOEPOOL_CHECK(slot != slots_.end());
  *slot = {};
  return InSlot(static_cast<size_t>(slot - slots_.begin()), expert);
}

PlacedExpert ExpertCache::Place(uint64_t id, const DeviceExpert& expert) {
  const size_t bytes = ExpertBytes(expert);
  if (bytes > slot_bytes_) {
    // Copies that this call has been given must stay where they are.
    bool in_use = false;
    for (const Slot& slot : slots_) in_use = in_use || (slot.id != 0 && slot.call == call_);
    if (!in_use && bytes <= bytes_) Cut(bytes);
  }
  size_t oldest = slots_.size();
  for (size_t i = 0; i < slots_.size() && bytes <= slot_bytes_; ++i) {
    Slot& slot = slots_[i];
    if (slot.id == id) {
      slot.call = call_;
      ++stats_.hits;
      return {InSlot(i, expert), false};
    }
    const bool free = slot.id == 0 || slot.call < call_;
    if (free && (oldest == slots_.size() || slot.call < slots_[oldest].call)) oldest = i;
  }
  if (oldest == slots_.size()) {
    ++stats_.read_from_host;
    return {expert, true};
  }
  slots_[oldest] = {id, call_};
  ++stats_.copies;
  const DeviceExpert placed = InSlot(oldest, expert);
  if (!ordered_) device_.AsideAfterStream();
  ordered_ = true;
  for (const auto matrix : kMatrices) {
    const DeviceWeights& from = expert.*matrix;
    device_.CopyAside(const_cast<uint8_t*>((placed.*matrix).data), from.data, WeightBytes(from));
  }
  return {placed, true};
}

}  // namespace moepool
