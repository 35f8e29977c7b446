// Text of a model for a terminal, which must not obey it.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

// The text without control characters, but for tabs and line ends: no escape sequence gets through. What is
// not UTF-8 becomes U+FFFD.
std::string TerminalText(std::string_view text);

}  // namespace moepool
