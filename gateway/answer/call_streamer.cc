#include "gateway/answer/call_streamer.h"

#include "gateway/answer/text_match.h"

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

CallStreamer::Output CallStreamer::Push(std::string_view text) {
  Output out;
  for (const char c : text) Step(c, &out);
  return out;
}

void CallStreamer::Step(char c, Output* out) {
  switch (state_) {
    case State::kBefore:
      if (c == '{') state_ = State::kKey;
      break;
    case State::kKey:
      if (c == '"') {
        key_open_ = !key_open_;
        if (!key_open_) state_ = State::kColon;
      } else if (key_open_) {
        key_ += c;
      } else if (c == '}') {
        state_ = State::kAfter;
      }
      break;
    case State::kColon:
      if (c == ':') state_ = State::kValue;
      break;
    case State::kValue:
      if (kJsonSpace.find(c) != std::string_view::npos) break;
      if (key_ == "name" && c == '"') {
        state_ = State::kName;
        break;
      }
      state_ = key_ == "arguments" || key_ == "parameters" ? State::kArguments : State::kSkipped;
      value_ = JsonExtent();
      [[fallthrough]];
    case State::kArguments:
    case State::kSkipped:
      value_.Push(std::string_view(&c, 1));
      if (state_ == State::kArguments) out->arguments += c;
      if (value_.complete()) {
        state_ = State::kKey;
        key_.clear();
      }
      break;
    case State::kName:
      if (c == '"') {
        out->name = name_;
        state_ = State::kKey;
        key_.clear();
      } else {
        name_ += c;
      }
      break;
    case State::kAfter:
      break;
  }
}

}  // namespace moepool
