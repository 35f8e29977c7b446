// What router and expert worker agree on beside the frames.
#pragma once

#include <compare>
#include <cstdint>

namespace moepool {

// In Hello; a router refuses another one. Raised with every change of what messages or frames mean.
inline constexpr uint32_t kPoolProtocolVersion = 2;

struct ExpertRef {
  int32_t layer = 0;
  int32_t expert = 0;
  auto operator<=>(const ExpertRef&) const = default;
};

}  // namespace moepool
