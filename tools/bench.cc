// `moepool bench`: measures, and asserts nothing.
#include "tools/bench.h"

#include "CLI/CLI.hpp"

namespace moepool {

void AddBenchCommand(CLI::App* app, CommandRunner* run) {
  CLI::App* command = app->add_subcommand("bench", "measure how fast things are");
  command->require_subcommand(1);
  AddBenchKernelsCommand(command, run);
  AddBenchEngineCommand(command, run);
  AddBenchServeCommand(command, run);
  AddBenchGatewayCommand(command, run);
}

}  // namespace moepool
