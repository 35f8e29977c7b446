#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace moepool {

// A piece of a call of a tool. The first of each index brings id and name.
struct ToolCallDelta {
  int32_t index = 0;  // of the call within its answer
  std::string id;
  std::string name;
  std::string arguments;  // more of the JSON text
};

// Adds deltas to those before them; pieces of one call's arguments become one.
inline void AppendDeltas(std::vector<ToolCallDelta> deltas, std::vector<ToolCallDelta>* to) {
  for (ToolCallDelta& delta : deltas) {
    const bool goes_on = !to->empty() && to->back().id.empty() && delta.id.empty();
    if (goes_on && to->back().index == delta.index) {
      to->back().arguments += delta.arguments;
    } else {
      to->push_back(std::move(delta));
    }
  }
}

}  // namespace moepool
