// From the text of one answer to what it is made of: thoughts, words, calls of tools.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/answer/reasoning_splitter.h"
#include "gateway/answer/tool_call_parser.h"

namespace moepool {

struct AnswerParserOptions {
  bool split_reasoning = false;
  bool reasoning_open = false;                 // the prompt ends within <think>
  std::optional<ToolCallParserOptions> tools;  // none: calls are text
};

// Not thread-safe.
class AnswerParser {
 public:
  struct Output {
    std::string reasoning;
    std::string text;
    std::vector<ToolCallDelta> tool_calls;
  };

  explicit AnswerParser(AnswerParserOptions options);

  Output Push(std::string_view text);
  Output Finish();
  bool thinking() const { return reasoning_.has_value() && reasoning_->thinking(); }
  bool called_tools() const { return tools_.has_value() && tools_->calls() > 0; }

 private:
  void AddText(std::string_view text, Output* out);

  std::optional<ReasoningSplitter> reasoning_;
  std::optional<ToolCallParser> tools_;
};

}  // namespace moepool
