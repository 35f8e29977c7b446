// `moepool inspect`: what a model file holds, and whether it can be served.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/model/model_report.h"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string model;
  bool tensors = false;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const ModelReport report, DescribeGguf(flags.model));
  std::fputs(ToString(report, flags.tensors).c_str(), stdout);
  return absl::OkStatus();
}

}  // namespace

void AddInspectCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app->add_subcommand("inspect", "show what a model file holds, and whether it can be served");
  command->add_option("--model", flags->model, "GGUF file")->required();
  command->add_flag("--tensors", flags->tensors, "list every tensor");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
