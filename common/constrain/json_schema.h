// JSON schemas as grammars (grammar.h). Every text of the grammar is valid under the schema; where a schema
// leaves more open than a grammar can promise to end, the grammar is narrower: see docs/constrained.md.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace moepool {

// InvalidArgument names a keyword that is not supported, or a value that it cannot have, and where it stands
// (a JSON pointer), or the limit that the schema exceeds.
absl::StatusOr<std::string> JsonSchemaToGrammar(const nlohmann::ordered_json& schema);

// Any JSON object.
std::string JsonObjectGrammar();

// How a model spells calls of tools:
//   before_first  CALL  (between CALL)*  after_last     where CALL is
//   before_name NAME before_arguments ARGUMENTS after_arguments
// and ARGUMENTS a JSON text. For instance  <tool_call>\n  around  {"name": " NAME ", "arguments": ARGUMENTS
// }.
struct ToolCallForm {
  std::string before_first;
  std::string before_name;
  std::string before_arguments;
  std::string after_arguments;
  std::string between;
  std::string after_last;
  bool many = false;  // one call or more; otherwise one
};
struct ToolCallChoice {
  std::string name;
  nlohmann::ordered_json parameters;  // a schema; null: any object
};

// The text is a call of one of `choices`, which are not empty. Errors as JsonSchemaToGrammar's, with the
// tool's name.
absl::StatusOr<std::string> ToolCallGrammar(const ToolCallForm& form,
                                            std::span<const ToolCallChoice> choices);

}  // namespace moepool
