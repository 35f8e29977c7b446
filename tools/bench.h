// The commands under `moepool bench`, each in a file of its own.
#pragma once

#include "tools/commands.h"

namespace moepool {

void AddBenchKernelsCommand(CLI::App* app,
                            CommandRunner* run);  // products and attention, and the machine's limits
void AddBenchEngineCommand(CLI::App* app, CommandRunner* run);  // tokens a second of an engine or a router
void AddBenchServeCommand(CLI::App* app, CommandRunner* run);   // what the clients of a server see under load
void AddBenchGatewayCommand(CLI::App* app, CommandRunner* run);  // what a gateway costs beside its router

}  // namespace moepool
