// The key that a client shows to a gateway which asks for one.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace moepool {

// --key-file
void AddApiKeyFlag(CLI::App* command, std::string* path);

// What the file holds, without white space around it; where `path` is empty, MOEPOOL_API_KEY of the
// environment; empty where there is neither. InvalidArgument: the file cannot be read, or is not one line of
// printable characters.
absl::StatusOr<std::string> ReadApiKey(const std::string& path);

}  // namespace moepool
