// Schemas as values: what is known of their keywords, two of them as one, and whether two exclude each other.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace moepool {

using Json = nlohmann::ordered_json;

// Says something about a schema, but nothing about what is valid.
bool IsAnnotation(std::string_view keyword);
// Looked at by the compiler.
bool IsKnownKeyword(std::string_view keyword);

// One schema for what is valid under both. InvalidArgument names the keyword that has no such value, or for
// which there is none in one schema.
absl::StatusOr<Json> MergeSchemas(const Json& a, const Json& b);

// Whether it can be shown that no text that is made for one is valid under the other: by their types, by
// values that a property or they themselves must have, or by properties that they require and the other does
// not know.
bool ExcludeEachOther(const Json& a, const Json& b);

// The types that a schema names or, where it names none, that its keywords speak of: a part of "null",
// "boolean", "object", "array", "number", "string", in one string with spaces; all of them where it says
// nothing. "integer" where numbers are whole.
std::vector<std::string> TypesOf(const Json& schema);

}  // namespace moepool
