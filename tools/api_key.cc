#include "tools/api_key.h"

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <iterator>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"

namespace moepool {

void AddApiKeyFlag(CLI::App* command, std::string* path) {
  command->add_option("--key-file", *path, "file with the gateway's key; default: MOEPOOL_API_KEY holds it");
}

absl::StatusOr<std::string> ReadApiKey(const std::string& path) {
  std::string key;
  if (path.empty()) {
    const char* const given = std::getenv("MOEPOOL_API_KEY");
    if (given != nullptr) key = given;
  } else {
    std::ifstream file(path, std::ios::binary);
    key.assign(std::istreambuf_iterator<char>(file), {});
    if (!file) return absl::InvalidArgumentError(absl::StrCat("--key-file: cannot read '", path, "'"));
  }
  absl::StripAsciiWhitespace(&key);
  // Easily taken for a gateway's --api-key-file, which holds lines "name:SHA-256".
  const size_t colon = key.find(':');
  if (colon != std::string::npos && key.size() >= colon + 65 &&
      std::all_of(key.begin() + static_cast<ptrdiff_t>(colon) + 1,
                  key.begin() + static_cast<ptrdiff_t>(colon) + 65,
                  [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) != 0; })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": holds names and hashes, which a gateway reads; a client's file holds a key"));
  }
  // What a header cannot carry; the key itself is not shown.
  if (std::any_of(key.begin(), key.end(), [](char c) { return c <= ' ' || c > '~'; })) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.empty() ? "MOEPOOL_API_KEY" : path, ": not one line of printable characters"));
  }
  return key;
}

}  // namespace moepool
