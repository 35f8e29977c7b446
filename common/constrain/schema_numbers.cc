#include "common/constrain/schema_numbers.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/str.h"

namespace moepool {
namespace {

std::string Join(const std::vector<std::string>& alternatives) {
  std::string joined;
  for (const std::string& one : alternatives) joined += (joined.empty() ? "" : " | ") + one;
  return alternatives.size() > 1 ? "(" + joined + ")" : joined;
}

std::string Quoted(std::string_view digits) { return digits.empty() ? "" : StrCat("\"", digits, "\" "); }

std::string Digits(char first, char last) {
  return first == last ? StrCat("\"", std::string(1, first), "\" ")
                       : StrCat("[", std::string(1, first), "-", std::string(1, last), "] ");
}

std::string AnyDigits(size_t count) { return count == 0 ? "" : StrCat("[0-9]{", count, "} "); }

// All strings of as many digits from `low` to `high`, which are equally long.
std::string SameLength(std::string_view low, std::string_view high) {
  const size_t same = static_cast<size_t>(
      std::mismatch(low.begin(), low.end(), high.begin(), high.end()).first - low.begin());
  const std::string prefix = Quoted(low.substr(0, same));
  low.remove_prefix(same);
  high.remove_prefix(same);
  if (low.empty()) return prefix;
  const size_t rest = low.size() - 1;
  const bool from_zeros = low.find_first_not_of('0', 1) == std::string_view::npos;
  const bool to_nines = high.find_first_not_of('9', 1) == std::string_view::npos;
  char first = low[0];
  char last = high[0];
  std::vector<std::string> parts;
  if (!from_zeros) {
    parts.push_back(Digits(first, first) + SameLength(low.substr(1), std::string(rest, '9')));
    ++first;
  }
  if (!to_nines) --last;
  if (first <= last) parts.push_back(Digits(first, last) + AnyDigits(rest));
  if (!to_nines) {
    parts.push_back(Digits(high[0], high[0]) + SameLength(std::string(rest, '0'), high.substr(1)));
  }
  return prefix + Join(parts);
}

bool Less(const std::string& a, const std::string& b) {
  return std::pair(a.size(), a) < std::pair(b.size(), b);
}

// Natural numbers from `low` to `high`, without leading zeros.
std::string NaturalsBetween(const std::string& low, const std::string& high) {
  if (Less(high, low)) return "";
  std::vector<std::string> parts;
  for (size_t length = low.size(); length <= high.size(); ++length) {
    std::string first = length == 1 ? "0" : "1" + std::string(length - 1, '0');
    std::string last(length, '9');
    if (length == low.size()) first = low;
    if (length == high.size()) last = high;
    parts.push_back(SameLength(first, last));
  }
  return Join(parts);
}

std::string Plus(std::string digits, int by) {  // by is 1 or -1; not below zero
  for (size_t i = digits.size(); i-- > 0;) {
    if (by > 0 && digits[i] == '9') {
      digits[i] = '0';
    } else if (by < 0 && digits[i] == '0') {
      digits[i] = '9';
    } else {
      digits[i] = static_cast<char>(digits[i] + by);
      if (digits.size() > 1 && digits[0] == '0') digits.erase(0, 1);
      return digits;
    }
  }
  return "1" + digits;
}

// A bound on the digits behind a point, as far as they are not decided yet.
struct Tail {
  bool open = true;  // no bound any more
  bool strict = false;
  std::string digits;
  char head() const { return digits.empty() ? '0' : digits[0]; }
  Tail Rest() const { return {open, strict, digits.empty() ? "" : digits.substr(1)}; }
};

// Digit strings t with low <= 0.t <= high. `may_be_empty`: the empty string is one of those asked for.
// Nothing where there is none.
std::optional<std::string> Fraction(Tail low, Tail high, bool may_be_empty) {
  if (!low.open && low.digits.empty() && !low.strict) low.open = true;
  const std::string any = StrCat("[0-9]{", may_be_empty ? 0 : 1, ",", kMaxNumberDigits, "} ");
  if (low.open && high.open) return any;
  if (!high.open && high.digits.empty()) {  // at most zero
    if (!low.open || high.strict) return std::nullopt;
    return StrCat("\"0\"{", may_be_empty ? 0 : 1, ",", kMaxNumberDigits, "} ");
  }
  if (high.open && low.digits.empty()) {  // more than zero
    return StrCat("\"0\"{0,", kMaxNumberDigits, "} [1-9] [0-9]{0,", kMaxNumberDigits, "} ");
  }
  std::vector<std::string> parts;
  if (may_be_empty && low.open) parts.emplace_back("\"\" ");
  const char first = low.open ? '0' : low.head();
  const char last = high.open ? '9' : high.head();
  const auto add = [&](char from, char to, const Tail& rest_low, const Tail& rest_high) {
    if (from > to) return;
    const auto rest = Fraction(rest_low, rest_high, /*may_be_empty=*/true);
    if (rest.has_value()) parts.push_back(Digits(from, to) + *rest);
  };
  const Tail low_rest = low.open ? Tail() : low.Rest();
  const Tail high_rest = high.open ? Tail() : high.Rest();
  if (first == last) {
    add(first, last, low_rest, high_rest);
  } else {
    if (!low.open) add(first, first, low_rest, Tail());
    add(static_cast<char>(first + (low.open ? 0 : 1)), static_cast<char>(last - (high.open ? 0 : 1)), Tail(),
        Tail());
    if (!high.open) add(last, last, Tail(), high_rest);
  }
  if (parts.empty()) return std::nullopt;
  return Join(parts);
}

// What may follow the whole part: nothing, or a point and digits.
std::string PointAndFraction(const Tail& low, const Tail& high) {
  std::vector<std::string> parts;
  const bool low_allows_none = low.open || (low.digits.empty() && !low.strict);
  const bool high_allows_none = high.open || !high.digits.empty() || !high.strict;
  if (low_allows_none && high_allows_none) parts.emplace_back("\"\" ");
  if (const auto digits = Fraction(low, high, /*may_be_empty=*/false)) parts.push_back("\".\" " + *digits);
  return Join(parts);
}

const std::string kLargestWhole(kMaxNumberDigits, '9');

// Numbers from low to high, neither of them negative.
std::string MagnitudesBetween(const DecimalBound& low, const std::optional<DecimalBound>& high) {
  const Tail low_tail = {false, low.exclusive, low.fraction};
  const Tail high_tail = high.has_value() ? Tail{false, high->exclusive, high->fraction} : Tail();
  const std::string last = high.has_value() ? high->whole : kLargestWhole;
  if (Less(last, low.whole)) return "";
  std::vector<std::string> parts;
  const auto add = [&](const std::string& whole, const std::string& fraction) {
    if (!whole.empty() && !fraction.empty()) parts.push_back(whole + " " + fraction);
  };
  if (last == low.whole) {
    add(Quoted(last), PointAndFraction(low_tail, high_tail));
    return Join(parts);
  }
  add(Quoted(low.whole), PointAndFraction(low_tail, Tail()));
  std::string below_last = high.has_value() ? Plus(last, -1) : last;
  add(NaturalsBetween(Plus(low.whole, 1), below_last), PointAndFraction(Tail(), Tail()));
  if (high.has_value()) add(Quoted(last), PointAndFraction(Tail(), high_tail));
  return Join(parts);
}

DecimalBound Magnitude(DecimalBound bound) {
  bound.negative = false;
  return bound;
}

}  // namespace

absl::StatusOr<DecimalBound> ToDecimal(const nlohmann::ordered_json& number, bool exclusive) {
  std::string text = number.dump();
  DecimalBound bound;
  bound.exclusive = exclusive;
  if (text.starts_with('-')) {
    bound.negative = true;
    text.erase(0, 1);
  }
  int64_t exponent = 0;
  if (const size_t e = text.find('e'); e != std::string::npos) {
    exponent = std::stoi(text.substr(e + 1));  // of a double's: at most three digits
    text.resize(e);
  }
  const size_t point = text.find('.');
  std::string digits = text.substr(0, point);
  int64_t before = static_cast<int64_t>(digits.size()) + exponent;  // digits before the point
  if (point != std::string::npos) digits += text.substr(point + 1);
  const bool is_zero = digits.find_first_not_of('0') == std::string::npos;
  if (is_zero) digits = "0", before = 1;
  const auto too_long = [&] {
    return absl::InvalidArgumentError(StrCat("is ", number.dump(), ", bounds have at most ", kMaxNumberDigits,
                                             " digits before and after the point"));
  };
  if (before > 2 * kMaxNumberDigits || before < -kMaxNumberDigits) return too_long();
  if (before <= 0) {
    digits.insert(0, static_cast<size_t>(1 - before), '0');
    before = 1;
  }
  if (digits.size() < static_cast<size_t>(before)) digits.resize(static_cast<size_t>(before), '0');
  bound.whole = digits.substr(0, static_cast<size_t>(before));
  bound.fraction = digits.substr(static_cast<size_t>(before));
  bound.whole.erase(0, std::min(bound.whole.find_first_not_of('0'), bound.whole.size() - 1));
  bound.fraction.erase(bound.fraction.find_last_not_of('0') + 1);
  if (bound.whole == "0" && bound.fraction.empty()) bound.negative = false;
  if (bound.whole.size() > kMaxNumberDigits || bound.fraction.size() > kMaxNumberDigits) {
    return too_long();
  }
  return bound;
}

std::string IntegersBetween(const NumberBounds& bounds) {
  const std::string largest(kMaxIntegerDigits, '9');
  std::vector<std::string> parts;
  // From zero up.
  if (!bounds.high.has_value() || !bounds.high->negative) {
    std::string low = "0";
    if (bounds.low.has_value() && !bounds.low->negative) {
      low = bounds.low->whole;
      if (!bounds.low->fraction.empty() || bounds.low->exclusive) low = Plus(low, 1);
    }
    std::string high = largest;
    bool any = true;
    if (bounds.high.has_value()) {
      high = bounds.high->whole;
      if (bounds.high->exclusive && bounds.high->fraction.empty()) {
        any = high != "0";
        if (any) high = Plus(high, -1);
      }
    }
    if (any) parts.push_back(NaturalsBetween(low, high));
  }
  // Below zero: the magnitudes go from the upper bound to the lower.
  if (!bounds.low.has_value() || bounds.low->negative) {
    std::string low = "1";
    if (bounds.high.has_value() && bounds.high->negative) {
      low = bounds.high->whole;
      if (!bounds.high->fraction.empty() || bounds.high->exclusive) low = Plus(low, 1);
    }
    std::string high = largest;
    if (bounds.low.has_value()) {
      high = bounds.low->whole;
      if (bounds.low->exclusive && bounds.low->fraction.empty()) high = Plus(high, -1);
    }
    if (const std::string naturals = NaturalsBetween(low, high); high != "0" && !naturals.empty()) {
      parts.push_back("\"-\" " + naturals);
    }
  }
  std::erase(parts, "");
  return Join(parts);
}

std::string NumbersBetween(const NumberBounds& bounds) {
  std::vector<std::string> parts;
  if (!bounds.high.has_value() || !bounds.high->negative) {
    const bool from_low = bounds.low.has_value() && !bounds.low->negative;
    parts.push_back(MagnitudesBetween(from_low ? *bounds.low : DecimalBound(), bounds.high));
  }
  if (!bounds.low.has_value() || bounds.low->negative) {
    const bool from_high = bounds.high.has_value() && bounds.high->negative;
    DecimalBound least;
    least.exclusive = true;  // no -0
    std::optional<DecimalBound> most;
    if (bounds.low.has_value()) most = Magnitude(*bounds.low);
    const std::string magnitudes = MagnitudesBetween(from_high ? Magnitude(*bounds.high) : least, most);
    if (!magnitudes.empty()) parts.push_back("\"-\" " + magnitudes);
  }
  std::erase(parts, "");
  return Join(parts);
}

}  // namespace moepool
