// Finds the calls of tools in what a model says.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "gateway/answer/call_streamer.h"
#include "gateway/answer/tool_call_delta.h"
#include "gateway/answer/tool_format.h"

namespace moepool {

struct ToolCallParserOptions {
  ToolFormat format = ToolFormat::kHermes;
  absl::flat_hash_set<std::string> names;  // of the tools; calls of others stay text
  bool parallel = true;                    // false: nothing is read after the first call
  // A grammar holds the model to whole calls, so that a call is handed out while it is written. Otherwise it
  // is once it is whole and valid.
  bool trusted = false;
  bool in_call = false;  // the prompt ends with the marker
};

// Invariant: whatever the pieces, text and calls are those of the whole, and what is no valid call of one of
// the tools is text, its marker included. White space between text and a call is dropped. Not thread-safe.
class ToolCallParser {
 public:
  struct Output {
    std::string text;
    std::vector<ToolCallDelta> calls;
  };

  explicit ToolCallParser(ToolCallParserOptions options);

  // What became certain.
  Output Push(std::string_view text);
  // What was held back.
  Output Finish();
  int32_t calls() const { return calls_; }
  bool stopped() const { return stopped_; }

 private:
  enum class State {
    kText,    // no call has begun; held_ is white space, or what may become a marker
    kHeader,  // after a marker, before the JSON; raw_ is all from the marker on
    kJson,    // raw_ as before, json_ the JSON so far
    kAfter,   // after a call: its ending, another call, or text
  };

  // Each takes what it can from held_; false where it needs more.
  bool StepText(bool last, Output* out);
  bool StepHeader(bool last, Output* out);
  bool StepJson(bool last, Output* out);
  bool StepAfter(bool last);
  void Run(bool last, Output* out);
  void BeginCall(std::string_view marker);
  // The JSON is whole: calls, or text again.
  void EndJson(Output* out);
  // What was taken for a call is text.
  void GiveUp(Output* out);
  void AddText(std::string_view text, Output* out);
  void AddCall(std::string name, std::string arguments, Output* out);
  void Stream(std::string_view json, Output* out);
  // The name that stands before the JSON, or nothing.
  std::string NameInHeader() const;

  const ToolCallParserOptions options_;
  const std::string_view marker_;
  State state_ = State::kText;
  bool said_ = false;   // anything but white space has come
  std::string held_;    // not looked at for good
  std::string space_;   // white space that is text, unless a call follows
  std::string raw_;     // of the call under way
  std::string header_;  // before the JSON
  std::string json_;
  JsonExtent extent_;
  CallStreamer streamer_;
  bool streaming_ = false;  // a delta of the call under way was handed out
  int32_t calls_ = 0;
  bool stopped_ = false;
};

}  // namespace moepool
