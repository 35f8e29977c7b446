// Parts what a model thinks, <think>…</think> at the beginning of its answer, from what it says.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

inline constexpr std::string_view kThinkStart = "<think>";
inline constexpr std::string_view kThinkEnd = "</think>";

// Invariant: whatever the pieces, reasoning and text are those of the whole. White space around what is
// thought is dropped, and before what is said after it. Not thread-safe.
class ReasoningSplitter {
 public:
  struct Output {
    std::string reasoning;
    std::string text;
  };

  // open: the prompt ends within <think>.
  explicit ReasoningSplitter(bool open) : state_(open ? State::kOpened : State::kStart) {}

  // What became certain.
  Output Push(std::string_view text);
  // What was held back.
  Output Finish();
  // Whether the end of the thinking is still to come, as far as is known.
  bool thinking() const { return state_ == State::kOpened || state_ == State::kThinking; }

 private:
  enum class State { kStart, kOpened, kThinking, kAfter, kText };

  State state_;
  bool thought_ = false;  // some of it was handed out
  std::string held_;      // of the current state: white space, or what may become a tag
};

}  // namespace moepool
