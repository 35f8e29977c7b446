#include "gateway/answer/json_extent.h"

namespace moepool {

size_t JsonExtent::Push(std::string_view text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (complete_) return i;
    const char c = text[i];
    if (in_string_) {
      if (escaped_) {
        escaped_ = false;
      } else if (c == '\\') {
        escaped_ = true;
      } else if (c == '"') {
        in_string_ = false;
      }
    } else if (c == '"') {
      in_string_ = true;
    } else if (c == '{' || c == '[') {
      ++depth_;
    } else if (c == '}' || c == ']') {
      --depth_;
    }
    complete_ = depth_ == 0 && !in_string_;
  }
  return text.size();
}

}  // namespace moepool
