// Reads lines from a terminal with editing and a history of its own, through libedit.
#pragma once

#include <memory>
#include <string>

namespace moepool {

// One in a process, used from one thread. Between calls of Read the terminal is as it was.
class LineEditor {
 public:
  LineEditor();
  ~LineEditor();

  enum class Kind { kLine, kInterrupted, kEnd };
  struct Input {
    Kind kind = Kind::kEnd;  // interrupted by Ctrl-C; ended by Ctrl-D on an empty line
    std::string line;        // without its end
  };
  Input Read(const std::string& prompt);
  // What the arrow keys bring back. Kept in memory alone: a disk would remember what people asked.
  void Remember(const std::string& line);

 private:
  struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace moepool
