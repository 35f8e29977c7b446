#include "gateway/answer/reasoning_splitter.h"

#include <utility>

#include "gateway/answer/text_match.h"

namespace moepool {

ReasoningSplitter::Output ReasoningSplitter::Push(std::string_view text) {
  Output out;
  held_ += text;
  if (state_ == State::kStart || state_ == State::kOpened) {
    const std::string_view rest = WithoutLeadingSpace(held_);
    if (rest.substr(0, kThinkStart.size()) == kThinkStart) {
      held_ = rest.substr(kThinkStart.size());
      state_ = State::kThinking;
    } else if (rest == kThinkStart.substr(0, rest.size())) {
      return out;  // white space, or the beginning of the tag
    } else {
      state_ = state_ == State::kStart ? State::kText : State::kThinking;
    }
  }
  if (state_ == State::kThinking) {
    if (!thought_) held_ = std::string(WithoutLeadingSpace(held_));
    const size_t end = held_.find(kThinkEnd);
    const std::string_view thought = std::string_view(held_).substr(0, end);
    size_t keep = 0;  // bytes at the end that may be a part of the tag, and the white space before them
    if (end == std::string::npos) keep = PartialMarker(thought, kThinkEnd);
    keep += TrailingSpace(thought.substr(0, thought.size() - keep));
    out.reasoning = thought.substr(0, thought.size() - keep);
    if (!out.reasoning.empty()) thought_ = true;
    if (end == std::string::npos) {
      held_.erase(0, held_.size() - keep);
      return out;
    }
    held_.erase(0, end + kThinkEnd.size());
    state_ = State::kAfter;
  }
  if (state_ == State::kAfter) {
    held_ = std::string(WithoutLeadingSpace(held_));
    if (held_.empty()) return out;
    state_ = State::kText;
  }
  out.text = std::exchange(held_, "");
  return out;
}

ReasoningSplitter::Output ReasoningSplitter::Finish() {
  Output out;
  if (state_ == State::kStart) out.text = std::exchange(held_, "");
  if (state_ == State::kOpened || state_ == State::kThinking) out.reasoning = std::exchange(held_, "");
  state_ = State::kText;
  return out;
}

}  // namespace moepool
