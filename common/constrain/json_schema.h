// JSON schemas as grammars (grammar.h). Every text of the grammar is valid under the schema; where a schema
// leaves more open than a grammar can promise to end, the grammar is narrower: see docs/constrained.md.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace moepool {

// InvalidArgument names a keyword that is not supported, or a value that it cannot have, and where it stands
// (a JSON pointer), or the limit that the schema exceeds.
absl::StatusOr<std::string> JsonSchemaToGrammar(const nlohmann::ordered_json& schema);

// Any JSON object.
std::string JsonObjectGrammar();

}  // namespace moepool
