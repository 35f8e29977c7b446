// Looking for markers in text that comes in pieces.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>

namespace moepool {

inline constexpr std::string_view kJsonSpace = " \t\r\n";

// The length of the longest end of `text` with which `marker` begins, less than the whole marker.
inline size_t PartialMarker(std::string_view text, std::string_view marker) {
  size_t length = std::min(text.size(), marker.size() - 1);
  while (length > 0 && text.substr(text.size() - length) != marker.substr(0, length)) --length;
  return length;
}

inline std::string_view WithoutLeadingSpace(std::string_view text) {
  return text.substr(std::min(text.find_first_not_of(kJsonSpace), text.size()));
}

// Bytes of the white space that `text` ends with.
inline size_t TrailingSpace(std::string_view text) {
  const size_t last = text.find_last_not_of(kJsonSpace);
  return last == std::string_view::npos ? text.size() : text.size() - last - 1;
}

}  // namespace moepool
