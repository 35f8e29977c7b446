// Grammars for calls of tools, in the forms in which models write them.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace moepool {

// How a model spells calls of tools:
//   marker  before_first  CALL  (between CALL)*  after_last     where CALL is
//   before_name NAME before_arguments ARGUMENTS after_arguments
// and ARGUMENTS a JSON object. For instance  <tool_call>  \n  around  {"name": " NAME ", "arguments":
// ARGUMENTS }. Blanks and line ends at the ends of these pieces, and beside `tokens`, may be missing.
struct ToolCallForm {
  std::string marker;
  bool marker_needed = true;  // otherwise a text that begins with a call may lack it
  std::string before_first;
  std::string before_name;
  std::string before_arguments;
  std::string after_arguments;
  bool several = true;  // whether more than one call can be written
  std::string between;
  std::string after_last;
  std::vector<std::string> tokens;  // parts of the above that a vocabulary may have control tokens for
};

// The pieces of `text`: each of `tokens` is one, and so is what stands between them, without the blanks and
// line ends that may be missing. None of them is empty.
std::vector<std::string> SplitSpelling(std::string_view text, std::span<const std::string> tokens);

struct ToolCallChoice {
  std::string name;
  nlohmann::ordered_json parameters;  // a schema; null: any object
};

inline constexpr int kMaxToolCalls = 16;  // of one answer

struct ToolCallText {
  bool begins_with_marker = false;  // otherwise the marker has come
  bool many = false;                // up to kMaxToolCalls where the form has several; otherwise one
  // What the text may be instead, where it begins with the marker: a value of this schema, or whatever does
  // not begin like a call.
  const nlohmann::ordered_json* or_schema = nullptr;
  bool or_any_text = false;
};

// The text is a call of one of `choices`, which are not empty, or what `text` says. Errors as
// JsonSchemaToGrammar's, with the tool's name, or with `or_schema`'s own words.
absl::StatusOr<std::string> ToolCallGrammar(const ToolCallForm& form, std::span<const ToolCallChoice> choices,
                                            const ToolCallText& text);

}  // namespace moepool
