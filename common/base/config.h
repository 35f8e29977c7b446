// Settings of a process: flag > MOEPOOL_<NAME> in the environment > YAML file (--config) > default. Every
// process takes them the same way, and refuses what it does not know with one line and exit code 2.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace CLI {
class App;
}

namespace moepool {

inline constexpr char kVersion[] = "0.1.0";

// Parses `app`, to which the caller has added its options (and subcommands, whose options take part), and
// fills what no flag set from the environment and the file. Adds --config and --version. Nothing: go on.
// Otherwise the process exits with the code returned: 0 after --help or --version (printed on `out`), 2 after
// an error (one line on `err`).
std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv, std::ostream& out,
                              std::ostream& err);
std::optional<int> ParseFlags(CLI::App* app, int argc, const char* const* argv);  // on stdout and stderr

// Adds a flag that switches off what is on without it: *on is false where it is given, or true in the
// environment or the file. `on` outlives the parsing.
void AddOffFlag(CLI::App* app, const std::string& name, bool* on, const std::string& help);

struct HostPort {
  std::string host;  // without brackets
  uint16_t port = 0;

  std::string ToString() const;  // "[v6]:port", "host:port"
  // 127.0.0.0/8, ::1 or "localhost"; any other name may be anywhere.
  bool IsLoopback() const;
};

// "host:port" or "[v6]:port"; port 0 lets the kernel choose. InvalidArgument names the text.
absl::StatusOr<HostPort> ParseAddress(std::string_view text);

// For an address to listen on, given by --`flag`: InvalidArgument unless it is loopback or `insecure`.
absl::StatusOr<HostPort> ParseListenAddress(std::string_view flag, std::string_view text, bool insecure);

}  // namespace moepool
