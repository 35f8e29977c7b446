// What router and expert worker agree on beside the frames.
#pragma once

#include <compare>
#include <cstdint>

namespace moepool {

// In Hello; a router refuses another one. Raised with every change of what messages or frames mean. A field
// that is new, and whose absence means that nothing has changed, is none: a peer that does not know NCCL is
// one that does not offer it.
inline constexpr uint32_t kPoolProtocolVersion = 3;

struct ExpertRef {
  int32_t layer = 0;
  int32_t expert = 0;
  auto operator<=>(const ExpertRef&) const = default;
};

}  // namespace moepool
