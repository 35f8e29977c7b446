#pragma once

#include <cstdint>
#include <string>

namespace moepool {

// A piece of a call of a tool. The first of each index brings id and name.
struct ToolCallDelta {
  int32_t index = 0;  // of the call within its answer
  std::string id;
  std::string name;
  std::string arguments;  // more of the JSON text
};

}  // namespace moepool
