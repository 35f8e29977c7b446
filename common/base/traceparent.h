// The header that carries a trace from service to service, as W3C's Trace Context has it:
// version "-" trace id "-" parent id "-" flags, in lower-case hexadecimal.
#pragma once

#include <algorithm>
#include <string_view>

namespace moepool {

inline constexpr size_t kTraceparentBytes = 55;  // of version 00; later ones may go on after another dash

// The 32 digits of its trace id, or nothing where the header is none.
inline std::string_view TraceIdOf(std::string_view traceparent) {
  constexpr size_t kDashes[] = {2, 35, 52};
  if (traceparent.size() < kTraceparentBytes) return {};
  const std::string_view version = traceparent.substr(0, 2);
  if (traceparent.size() > kTraceparentBytes && (version == "00" || traceparent[kTraceparentBytes] != '-'))
    return {};
  for (size_t i = 0; i < kTraceparentBytes; ++i) {
    const char c = traceparent[i];
    const bool dash = std::find(std::begin(kDashes), std::end(kDashes), i) != std::end(kDashes);
    const bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
    if (dash ? c != '-' : !digit) return {};
  }
  const std::string_view trace = traceparent.substr(3, 32);
  const std::string_view parent = traceparent.substr(36, 16);
  const auto zero = [](std::string_view digits) { return digits.find_first_not_of('0') == digits.npos; };
  return version == "ff" || zero(trace) || zero(parent) ? std::string_view() : trace;
}

// Whether it may be passed on: a header as long as those of version 00 are.
inline bool IsTraceparent(std::string_view text) {
  return text.size() == kTraceparentBytes && !TraceIdOf(text).empty();
}

}  // namespace moepool
