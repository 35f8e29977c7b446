// Numbers between bounds as expressions of the grammar language, digit by digit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace moepool {

// Integers have at most this many digits; numbers with bounds at most as many before the point, and no
// exponent.
inline constexpr int kMaxIntegerDigits = 18;
inline constexpr int kMaxNumberDigits = 16;

// A bound in decimal: (negative ? -1 : 1) * whole.fraction.
struct DecimalBound {
  bool negative = false;
  std::string whole = "0";  // without leading zeros
  std::string fraction;     // without trailing zeros
  bool exclusive = false;
};

struct NumberBounds {
  std::optional<DecimalBound> low;
  std::optional<DecimalBound> high;
};

// InvalidArgument where the number needs more digits than numbers may have here.
absl::StatusOr<DecimalBound> ToDecimal(const nlohmann::ordered_json& number, bool exclusive);

// Empty where there is no such number.
std::string IntegersBetween(const NumberBounds& bounds);
std::string NumbersBetween(const NumberBounds& bounds);

}  // namespace moepool
