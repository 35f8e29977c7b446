// `moepool status`: a router's pool as it stands.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/rpc/trunk_client.h"
#include "nlohmann/json.hpp"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string router = "127.0.0.1:50052";
  bool json = false;
};

void PrintJson(const PoolInfo& pool) {
  nlohmann::json workers = nlohmann::json::array();
  for (const PoolWorkerInfo& w : pool.workers) {
    workers.push_back({{"id", w.id},
                       {"name", w.name},
                       {"state", w.state},
                       {"transport", w.transport},
                       {"backend", w.backend},
                       {"memory_limit_bytes", w.memory_limit_bytes},
                       {"expert_bytes", w.expert_bytes},
                       {"experts_held", w.experts_held},
                       {"experts", w.experts},
                       {"dispatches", w.dispatches},
                       {"round_trip_us", w.round_trip_us}});
  }
  const nlohmann::json json = {{"model", pool.model},         {"ready", pool.ready},
                               {"epoch", pool.epoch},         {"waiting_for", pool.waiting_for},
                               {"running", pool.running},     {"waiting", pool.waiting},
                               {"kv_blocks", pool.kv_blocks}, {"kv_blocks_free", pool.kv_blocks_free},
                               {"workers", workers}};
  std::puts(json.dump(2).c_str());
}

void PrintTable(const PoolInfo& pool) {
  std::printf("model %s   %s   epoch %llu   running %d   waiting %d   KV blocks %d of %d free\n",
              pool.model.c_str(), pool.ready ? "ready" : "not ready",
              static_cast<unsigned long long>(pool.epoch), pool.running, pool.waiting, pool.kv_blocks_free,
              pool.kv_blocks);
  if (!pool.waiting_for.empty()) std::printf("waiting for: %s\n", pool.waiting_for.c_str());
  std::printf("%-6s %-24s %-9s %-11s %-8s %-10s %10s %12s %12s\n", "worker", "name", "state", "transport",
              "backend", "experts", "MiB", "dispatches", "round trip");
  for (const PoolWorkerInfo& w : pool.workers) {
    std::printf("%-6llu %-24s %-9s %-11s %-8s %-10s %10.1f %12llu %9.0f us\n",
                static_cast<unsigned long long>(w.id), w.name.c_str(), w.state.c_str(), w.transport.c_str(),
                w.backend.c_str(), w.experts.c_str(), static_cast<double>(w.expert_bytes) / (1 << 20),
                static_cast<unsigned long long>(w.dispatches), w.round_trip_us);
  }
}

absl::Status Run(const Flags& flags) {
  GrpcTrunk trunk(flags.router);
  MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo pool, trunk.Pool());
  flags.json ? PrintJson(pool) : PrintTable(pool);
  return absl::OkStatus();
}

}  // namespace

void AddStatusCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("status", "show a router's pool");
  command->add_option("--router", flags->router, "host:port of a router");
  command->add_flag("--json", flags->json, "as JSON");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
