// Paths of routes, of which the end may be a name.
#pragma once

#include <string_view>

namespace moepool {

// A pattern ends with a name in braces where the rest of the path, not empty, is that.
inline bool MatchesPath(std::string_view pattern, std::string_view path) {
  const size_t brace = pattern.find('{');
  if (brace == std::string_view::npos) return pattern == path;
  return path.size() > brace && path.substr(0, brace) == pattern.substr(0, brace);
}

}  // namespace moepool
