// The values of a JSON schema's "format" that are supported.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

// An expression for what stands between the quotes; empty where the format is not known. Each is a part of
// what its RFC allows: see docs/constrained.md.
std::string FormatToGrammar(std::string_view format);
// A name that says what a string is for, and nothing about its text.
bool IsFreeFormat(std::string_view format);
// The names of those that FormatToGrammar knows, for messages.
std::string KnownFormats();

}  // namespace moepool
