// Finds the calls of tools in what a model says.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "gateway/answer/json_extent.h"
#include "gateway/answer/tool_call_delta.h"
#include "gateway/answer/tool_format.h"

namespace moepool {

struct ToolCallParserOptions {
  ToolFormat format = ToolFormat::kHermes;
  ToolCallForm form;
  absl::flat_hash_set<std::string> names;  // of the tools; calls of others are text
  bool in_call = false;                    // the prompt ends with the marker
};

// A grammar of the same form holds the model to it from the marker on (see ToolCallGrammar), so that a call
// is handed out while it is written: first its name, then pieces of its arguments.
//
// Invariant: whatever the pieces, text and calls are those of the whole, and what does not begin as a call of
// one of the tools is text, its marker included. White space beside calls is dropped. Not thread-safe.
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

 private:
  using Pieces = std::vector<std::string>;
  enum class State {
    kText,       // no call has begun; held_ is white space, or what may become a marker
    kHead,       // after a marker, before the arguments
    kArguments,  // of a call
    kAfter,      // behind them: more calls, or their end
  };
  enum class Match { kNo, kMore, kYes };

  // Each takes what it can from held_; false where it needs more.
  bool StepText(bool last, Output* out);
  bool StepHead(bool last, Output* out);
  bool StepArguments(Output* out);
  bool StepAfter(bool last, Output* out);
  void Run(bool last, Output* out);
  // Whether *text begins with all of the pieces; it is then moved behind them. kMore: it may yet.
  static Match MatchPieces(const Pieces& pieces, std::string_view* text);
  // The same of all that stands before a call's arguments, which are next.
  Match MatchHead(const Pieces& lead, std::string_view* text, std::string* name) const;
  void BeginArguments(std::string_view rest, std::string name, Output* out);
  void AddText(std::string_view text, Output* out);

  const ToolCallParserOptions options_;
  const Pieces first_lead_;  // between the marker and the first name
  const Pieces next_lead_;   // between the arguments of a call and the name of the next
  const Pieces before_arguments_;
  const Pieces end_;  // behind the last call's arguments
  State state_ = State::kText;
  bool said_ = false;        // anything but white space has come
  bool after_call_ = false;  // and nothing but white space since
  std::string held_;         // not looked at for good
  std::string space_;        // white space that is text, unless a call follows
  std::string marker_;       // of the call that may have begun, as it came
  JsonExtent extent_;
  int32_t calls_ = 0;
};

}  // namespace moepool
