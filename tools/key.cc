// `moepool key`: makes an API key, and the line of it for a gateway's --api-key-file.
#include <cstdio>
#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "gateway/auth.h"
#include "tools/commands.h"

namespace moepool {
namespace {

absl::Status Run(const std::string& name) {
  MOEPOOL_ASSIGN_OR_RETURN(const NewApiKey made, MakeApiKey(name));
  std::printf("%s\n", made.line.c_str());
  std::fprintf(stderr, "%s\n", made.key.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddKeyCommand(CLI::App* app, CommandRunner* run) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app->add_subcommand(
      "key", "make an API key: the key on standard error, its line for --api-key-file on standard output");
  command->add_option("name", *name, "what logs call it")->required();
  command->callback([name, run] { *run = [name] { return Run(*name); }; });
}

}  // namespace moepool
