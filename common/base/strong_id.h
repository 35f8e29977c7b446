// Integer identifiers that do not convert into one another.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>

namespace moepool {

template <typename Tag, typename Int>
class StrongId {
 public:
  constexpr StrongId() = default;
  explicit constexpr StrongId(Int value) : value_(value) {}
  constexpr Int value() const { return value_; }
  constexpr auto operator<=>(const StrongId&) const = default;
  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value_);
  }
  friend std::ostream& operator<<(std::ostream& os, StrongId id) { return os << id.value_; }

 private:
  Int value_ = 0;
};

using ExpertId = StrongId<struct ExpertTag, int32_t>;
using LayerId = StrongId<struct LayerTag, int32_t>;
using WorkerId = StrongId<struct WorkerTag, uint64_t>;
using SequenceId = StrongId<struct SequenceTag, uint64_t>;

}  // namespace moepool
