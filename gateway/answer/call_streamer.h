// Follows JSON of calls byte by byte: where a value ends, and in {"name": …, "arguments": …} the name and the
// text of the arguments while they come.
#pragma once

#include <string>
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

// The members of one object {"name": "…", "arguments": {…}}, which is known to be valid and to have the name
// first: a grammar made it. Bytes before the object are skipped. Not thread-safe.
class CallStreamer {
 public:
  struct Output {
    std::string name;  // set once, when it is whole
    std::string arguments;
  };
  Output Push(std::string_view text);

 private:
  enum class State { kBefore, kKey, kColon, kValue, kName, kSkipped, kArguments, kAfter };

  void Step(char c, Output* out);

  State state_ = State::kBefore;
  std::string key_;
  bool key_open_ = false;
  std::string name_;
  JsonExtent value_;
};

}  // namespace moepool
