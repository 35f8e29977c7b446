// The `moepool` command-line tool.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "common/base/config.h"
#include "common/base/heap.h"
#include "common/base/log.h"
#include "common/base/open_files.h"
#include "common/base/str.h"
#include "tools/commands.h"

int main(int argc, char** argv) {
  moepool::KeepFreedMemory();
  moepool::AllowOpenFiles();
  CLI::App app("moepool: serve Mixture-of-Experts models from a pool of machines", "moepool");
  app.require_subcommand(1);
  moepool::CommandRunner run;
  moepool::AddServeCommand(&app, &run);
  moepool::AddGenerateCommand(&app, &run);
  moepool::AddChatCommand(&app, &run);
  moepool::AddStatusCommand(&app, &run);
  moepool::AddKeyCommand(&app, &run);
  moepool::AddHealthCommand(&app, &run);
  moepool::AddTokenizeCommand(&app, &run);
  moepool::AddInspectCommand(&app, &run);
  moepool::AddPerplexityCommand(&app, &run);
  moepool::AddLogitsCommand(&app, &run);
  moepool::AddSynthCommand(&app, &run);
  moepool::AddBenchCommand(&app, &run);
  if (const std::optional<int> code = moepool::ParseFlags(&app, argc, argv)) return *code;
  moepool::InitLog("moepool");
  const absl::Status status = run();
  if (status.ok()) return 0;
  std::fprintf(stderr, "moepool: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
               std::string(status.message()).c_str());
  return 1;
}
