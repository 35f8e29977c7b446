// `moepool bench serve`: what the clients of a server see under load.
#include <sys/resource.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "common/base/config.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "nlohmann/json.hpp"
#include "tools/bench.h"
#include "tools/bench_load.h"
#include "tools/bench_server.h"

namespace moepool {
namespace {

using nlohmann::json;

struct Flags {
  std::string target;
  std::string protocol = "moepool";
  int clients = 16;
  std::optional<double> rate_per_s;
  int requests = 64;
  int warmup = 16;
  int input_tokens = 128;
  int output_tokens = 64;
  int vocab = 0;
  uint64_t seed = 1;
  Objective objective;
  double timeout_s = 600;
  bool json = false;
};

// Of this process so far, which on one host is taken from the server that is measured.
double CpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void Print(const json& whole) {
  std::printf("%s %s   %s loop   %d requests of %d tokens in, %d out: %d completed, %d failed, %.1f s\n",
              whole["protocol"].get_ref<const std::string&>().c_str(),
              whole["target"].get_ref<const std::string&>().c_str(),
              whole["load"].get_ref<const std::string&>().c_str(), whole["requests"].get<int>(),
              whole["input_tokens"].get<int>(), whole["output_tokens_each"].get<int>(),
              whole["completed"].get<int>(), whole["failed"].get<int>(), whole["duration_s"].get<double>());
  for (const auto& [message, count] : whole["errors"].items()) {
    std::printf("  failed %d: %s\n", count.get<int>(), message.c_str());
  }
  std::printf("  %.1f output tokens/s   %.2f requests/s   %.2f s of CPU time for the clients\n",
              whole["output_tokens_per_s"].get<double>(), whole["requests_per_s"].get<double>(),
              whole["client_cpu_s"].get<double>());
  const std::pair<const char*, const char*> times[] = {{"ttft_ms", "time to first token"},
                                                       {"tpot_ms", "time per output token"},
                                                       {"itl_ms", "between events"},
                                                       {"e2e_ms", "whole request"}};
  std::printf("  %-24s %10s %10s %10s %10s\n", "ms", "p50", "p90", "p99", "mean");
  for (const auto& [key, name] : times) {
    const json& d = whole[key];
    if (d.is_null()) continue;
    std::printf("  %-24s %10.2f %10.2f %10.2f %10.2f\n", name, d["p50"].get<double>(), d["p90"].get<double>(),
                d["p99"].get<double>(), d["mean"].get<double>());
  }
  if (!whole["slo"].is_null()) {
    std::printf("  within the objective: %d requests, %.2f a second\n", whole["slo"]["met"].get<int>(),
                whole["slo"]["goodput_per_s"].get<double>());
  }
}

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const HostPort address, ParseAddress(flags.target));
  const absl::Duration patience = absl::Seconds(flags.timeout_s);
  MOEPOOL_ASSIGN_OR_RETURN(
      const std::unique_ptr<BenchServer> server,
      flags.protocol == "grpc"
          ? MakeGrpcBenchServer(address, flags.vocab, absl::Now() + patience)
          : MakeHttpBenchServer(flags.protocol, address, flags.vocab, absl::Now() + patience));

  std::mt19937_64 random(flags.seed);
  std::vector<BenchPrompt> prompts;
  for (int i = 0; i < flags.warmup + flags.requests; ++i) {
    MOEPOOL_ASSIGN_OR_RETURN(BenchPrompt prompt, server->MakePrompt(flags.input_tokens, &random));
    prompts.push_back(std::move(prompt));
  }
  const auto send = [&](size_t i) -> absl::StatusOr<Generated> {
    MOEPOOL_ASSIGN_OR_RETURN(Generated generated,
                             server->Generate(prompts[i], flags.output_tokens, absl::Now() + patience));
    if (generated.prompt_tokens != 0 && generated.prompt_tokens != flags.input_tokens) {
      return absl::FailedPreconditionError(StrCat("the server counts ", generated.prompt_tokens,
                                                  " tokens in a prompt of ", flags.input_tokens));
    }
    return generated;
  };
  const auto warmup = static_cast<size_t>(flags.warmup);
  RunLoad({.requests = warmup, .clients = flags.clients}, send);
  Load load;
  load.requests = static_cast<size_t>(flags.requests);
  load.clients = flags.clients;
  load.rate_per_s = flags.rate_per_s;
  load.seed = flags.seed;
  const double cpu_before_s = CpuSeconds();
  const std::vector<RequestOutcome> outcomes = RunLoad(load, [&](size_t i) { return send(warmup + i); });
  const double cpu_s = CpuSeconds() - cpu_before_s;
  const LoadReport report = Evaluate(outcomes, flags.output_tokens, flags.objective);
  if (report.completed == 0) {
    return absl::UnavailableError(
        StrCat("none of ", flags.requests, " requests was completed: ", report.errors.begin()->first));
  }
  json whole = {{"bench", "serve"},
                {"version", kVersion},
                {"target", flags.target},
                {"protocol", flags.protocol},
                {"load", flags.rate_per_s.has_value() ? "open" : "closed"},
                {"clients", flags.rate_per_s.has_value() ? json() : json(flags.clients)},
                {"rate_per_s", flags.rate_per_s.has_value() ? json(*flags.rate_per_s) : json()},
                {"requests", flags.requests},
                {"input_tokens", flags.input_tokens},
                {"output_tokens_each", flags.output_tokens},
                {"seed", flags.seed},
                {"client_cpu_s", cpu_s}};
  whole.update(ToJson(report, flags.objective));
  flags.json ? static_cast<void>(std::puts(whole.dump(2).c_str())) : Print(whole);
  return absl::OkStatus();
}

}  // namespace

void AddBenchServeCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("serve", "what the clients of a server see under load");
  const auto count = [&](const char* name, int* value, int least, const char* help) {
    return command->add_option(name, *value, help)->check(CLI::Range(least, 1 << 20))->capture_default_str();
  };
  command->add_option("--target", flags->target, "host:port of the server")->required();
  command
      ->add_option(
          "--protocol", flags->protocol,
          "moepool (a gateway's POST /infer), grpc (a gateway's), llama (llama.cpp's server) or openai")
      ->check(CLI::IsMember({"moepool", "grpc", "llama", "openai"}))
      ->capture_default_str();
  CLI::Option* const clients =
      count("--clients", &flags->clients, 1, "that each wait for an answer before they ask again");
  command
      ->add_option("--rate", flags->rate_per_s,
                   "requests a second, which wait for nothing: a Poisson process")
      ->check(CLI::Range(1e-3, 1e6));
  CLI::Option* const requests =
      count("--requests", &flags->requests, 1, "in all; without it 4 for each client");
  CLI::Option* const warmup = count("--warmup-requests", &flags->warmup, 0,
                                    "more of them first, which do not count; without it one each");
  count("--input-tokens", &flags->input_tokens, 1, "of each prompt");
  count("--output-tokens", &flags->output_tokens, 1, "of each answer");
  count("--vocab", &flags->vocab, 0, "prompts are ids under this; 0: what the server says (not for moepool)");
  command->add_option("--seed", flags->seed, "of prompts and arrivals")->capture_default_str();
  command
      ->add_option("--slo-ttft-ms", flags->objective.ttft_ms, "count requests within this to the first token")
      ->check(CLI::PositiveNumber);
  command->add_option("--slo-tpot-ms", flags->objective.tpot_ms, "and within this for each further token")
      ->check(CLI::PositiveNumber);
  command->add_option("--timeout-seconds", flags->timeout_s, "for one request")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags, clients, requests, warmup, run] {
    if (clients->count() > 0 && requests->count() == 0) flags->requests = 4 * flags->clients;
    if (clients->count() > 0 && warmup->count() == 0) flags->warmup = flags->clients;
    if (flags->rate_per_s.has_value() && warmup->count() == 0) flags->warmup = 4;
    *run = [flags] { return Run(*flags); };
  });
}

}  // namespace moepool
