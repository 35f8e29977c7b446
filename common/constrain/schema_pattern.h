// Regular expressions of JSON schemas ("pattern", ECMA-262) as expressions of the grammar language.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "common/constrain/code_points.h"
#include "common/constrain/grammar_text.h"

namespace moepool {

// The strings that `pattern` finds something in, as they stand between the quotes of a JSON string: what must
// be escaped there is. ^ and $ may stand at the ends of the pattern or of its alternatives alone.
// InvalidArgument says what is malformed or not supported (look-around, back-references, \b, \p, flags) and
// where.
absl::StatusOr<std::string> PatternToGrammar(std::string_view pattern, GrammarText* text);

// One character of `set` as it stands in a JSON string; empty where the set is.
std::string JsonCharOf(const CodePointSet& set);

}  // namespace moepool
