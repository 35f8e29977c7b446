// The commands under `moepool bench`, each in a file of its own.
#pragma once

#include "tools/commands.h"

namespace moepool {

void AddBenchEngineCommand(CLI::App* app, CommandRunner* run);  // tokens a second of an engine or a router

}  // namespace moepool
