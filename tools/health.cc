// `moepool health`: whether a process serves, as an exit code, for images that have no shell.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "common/rpc/health_client.h"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string address;
  std::string service;
  double timeout_s = 2;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_RETURN_IF_ERROR(CheckHealth(flags.address, flags.service, absl::Seconds(flags.timeout_s)));
  std::puts("serving");
  return absl::OkStatus();
}

}  // namespace

void AddHealthCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("health", "ask a process over gRPC whether it serves");
  command->add_option("ADDRESS", flags->address, "host:port of its gRPC server")->required();
  command->add_option(
      "--service", flags->service,
      "moepool.v1.Inference of a gateway, moepool.trunk.v1.Trunk of a router that is ready for "
      "gateways, moepool.experts.v1.ExpertPool of one that is ready for workers, and of a worker; "
      "none: the process");
  command->add_option("--timeout", flags->timeout_s, "Seconds to wait for the answer")
      ->check(CLI::Range(0.001, 1e6))
      ->capture_default_str();
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
