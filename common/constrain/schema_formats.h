// The values of a JSON schema's "format" that are supported.
#pragma once

#include <string>
#include <string_view>

namespace moepool {

// An expression for what stands between the quotes; empty where the format is not known. Each is a part of
// what its RFC allows: see docs/constrained.md.
std::string FormatToGrammar(std::string_view format);
// Their names, for messages.
std::string KnownFormats();

}  // namespace moepool
