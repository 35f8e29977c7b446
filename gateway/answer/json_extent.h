// Where a JSON value ends, while it comes.
#pragma once

#include <cstddef>
#include <string_view>

namespace moepool {

// One JSON object or array, of which only the extent is looked at. Not thread-safe.
class JsonExtent {
 public:
  // Bytes of `text` that belong to the value, which begins with the first byte ever pushed.
  size_t Push(std::string_view text);
  bool complete() const { return complete_; }

 private:
  int depth_ = 0;
  bool in_string_ = false;
  bool escaped_ = false;
  bool complete_ = false;
};

}  // namespace moepool
