// The commands of the `moepool` tool. Each adds its subcommand and flags to the application, and sets `run`
// when it is the one that was called.
#pragma once

#include <functional>

#include "absl/status/status.h"

namespace CLI {
class App;
}

namespace moepool {

using CommandRunner = std::function<absl::Status()>;

void AddServeCommand(CLI::App* app, CommandRunner* run);       // gateway, engine and workers in one process
void AddGenerateCommand(CLI::App* app, CommandRunner* run);    // asks a gateway, streams the answer
void AddChatCommand(CLI::App* app, CommandRunner* run);        // talks with a gateway, in the terminal
void AddStatusCommand(CLI::App* app, CommandRunner* run);      // shows a router's pool
void AddKeyCommand(CLI::App* app, CommandRunner* run);         // makes an API key
void AddHealthCommand(CLI::App* app, CommandRunner* run);      // asks a process whether it serves
void AddTokenizeCommand(CLI::App* app, CommandRunner* run);    // ids of a text
void AddInspectCommand(CLI::App* app, CommandRunner* run);     // what a model file holds
void AddPerplexityCommand(CLI::App* app, CommandRunner* run);  // of a text
void AddLogitsCommand(CLI::App* app, CommandRunner* run);      // as a NumPy array
void AddSynthCommand(CLI::App* app, CommandRunner* run);       // writes a model of random weights
void AddBenchCommand(CLI::App* app, CommandRunner* run);       // measures

}  // namespace moepool
