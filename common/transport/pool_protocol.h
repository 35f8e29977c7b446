// What router and expert worker agree on beside the frames.
#pragma once

#include <compare>
#include <cstdint>

namespace moepool {

// In Hello; a router refuses another one.
inline constexpr uint32_t kPoolProtocolVersion = 1;

struct ExpertRef {
  int32_t layer = 0;
  int32_t expert = 0;
  auto operator<=>(const ExpertRef&) const = default;
};

}  // namespace moepool
