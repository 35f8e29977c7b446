#include "gateway/answer/answer_parser.h"

#include <utility>

namespace moepool {

AnswerParser::AnswerParser(AnswerParserOptions options) {
  if (options.split_reasoning) reasoning_.emplace(options.reasoning_open);
  if (options.tools.has_value()) tools_.emplace(*std::move(options.tools));
}

AnswerParser::Output AnswerParser::Push(std::string_view text) {
  Output out;
  if (!reasoning_.has_value()) {
    AddText(text, &out);
    return out;
  }
  ReasoningSplitter::Output split = reasoning_->Push(text);
  out.reasoning = std::move(split.reasoning);
  AddText(split.text, &out);
  return out;
}

AnswerParser::Output AnswerParser::Finish() {
  Output out;
  if (reasoning_.has_value()) {
    ReasoningSplitter::Output split = reasoning_->Finish();
    out.reasoning = std::move(split.reasoning);
    AddText(split.text, &out);
  }
  if (tools_.has_value()) {
    ToolCallParser::Output rest = tools_->Finish();
    out.text += rest.text;
    for (ToolCallDelta& call : rest.calls) out.tool_calls.push_back(std::move(call));
  }
  return out;
}

void AnswerParser::AddText(std::string_view text, Output* out) {
  if (!tools_.has_value()) {
    out->text += text;
    return;
  }
  ToolCallParser::Output found = tools_->Push(text);
  out->text += found.text;
  for (ToolCallDelta& call : found.calls) out->tool_calls.push_back(std::move(call));
}

}  // namespace moepool
