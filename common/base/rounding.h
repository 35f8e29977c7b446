// Integer division that rounds up.
#pragma once

namespace moepool {

// Of n >= 0 and divisor > 0, whose sum the type holds.
template <typename Int>
constexpr Int DivideUp(Int n, Int divisor) {
  return (n + divisor - 1) / divisor;
}

// The least multiple that is not less than n.
template <typename Int>
constexpr Int RoundUp(Int n, Int multiple) {
  return DivideUp(n, multiple) * multiple;
}

}  // namespace moepool
