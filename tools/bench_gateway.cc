// `moepool bench gateway`: what a gateway adds to the time of the first token, and takes from the throughput,
// beside the router's own stream. Every prompt goes through every door, in turn, within one process.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/time/clock.h"
#include "common/base/config.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "nlohmann/json.hpp"
#include "tools/bench.h"
#include "tools/bench_load.h"
#include "tools/bench_server.h"
#include "tools/http_stream.h"

namespace moepool {
namespace {

using nlohmann::json;

struct Flags {
  std::string router;
  std::string http;
  std::string grpc;
  int pairs = 200;
  int warmup = 20;
  int input_tokens = 64;
  int output_tokens = 4;
  int streams = 64;
  int stream_tokens = 64;
  int rounds = 7;
  uint64_t seed = 1;
  double timeout_s = 600;
  bool json = false;
};

struct Door {
  std::string name;
  std::unique_ptr<BenchServer> server;
  std::vector<double> ttft_ms = {};
  std::vector<double> tokens_per_s = {};
  std::vector<double> gateway_cpu_us = {};  // its processor time for each token of a round of streams
};

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags), random_(flags.seed) {}

  absl::StatusOr<json> Run() {
    MOEPOOL_RETURN_IF_ERROR(Open());
    for (int i = 0; i < flags_.warmup + flags_.pairs; ++i) {
      MOEPOOL_RETURN_IF_ERROR(FirstTokens(i, /*counts=*/i >= flags_.warmup));
    }
    for (int i = 0; i <= flags_.rounds; ++i) MOEPOOL_RETURN_IF_ERROR(Streams(i, /*counts=*/i > 0));
    return Report();
  }

 private:
  absl::Status Open() {
    const auto address = [](const std::string& flag) { return ParseAddress(flag); };
    MOEPOOL_ASSIGN_OR_RETURN(const HostPort router, address(flags_.router));
    MOEPOOL_ASSIGN_OR_RETURN(const HostPort http, address(flags_.http));
    MOEPOOL_ASSIGN_OR_RETURN(const HostPort grpc, address(flags_.grpc));
    const absl::Time deadline = absl::Now() + absl::Seconds(flags_.timeout_s);
    MOEPOOL_ASSIGN_OR_RETURN(auto trunk, MakeTrunkBenchServer(router, 0));
    MOEPOOL_ASSIGN_OR_RETURN(auto over_http, MakeHttpBenchServer("moepool", http, 0, deadline));
    MOEPOOL_ASSIGN_OR_RETURN(auto over_grpc, MakeGrpcBenchServer(grpc, 0, deadline));
    http_ = std::make_unique<HttpClient>(http);
    doors_.push_back({.name = "router", .server = std::move(trunk)});
    doors_.push_back({.name = "http", .server = std::move(over_http)});
    doors_.push_back({.name = "grpc", .server = std::move(over_grpc)});
    return absl::OkStatus();
  }

  // The gateway's HTTP takes text; its ids are the others' prompt.
  absl::StatusOr<BenchPrompt> MakePrompt() {
    return doors_[1].server->MakePrompt(flags_.input_tokens, &random_);
  }

  absl::StatusOr<Generated> Send(const Door& door, const BenchPrompt& prompt, int tokens) const {
    absl::StatusOr<Generated> generated =
        door.server->Generate(prompt, tokens, absl::Now() + absl::Seconds(flags_.timeout_s));
    if (!generated.ok()) {
      return absl::Status(generated.status().code(), StrCat(door.name, ": ", generated.status().message()));
    }
    if (generated->cached_tokens > 0) {
      return absl::FailedPreconditionError(StrCat(
          "the router took ", generated->cached_tokens,
          " tokens of a prompt from its prefix cache, so that the doors cannot be compared; it has to be "
          "started with --prefix-cache off"));
    }
    if (generated->prompt_tokens != flags_.input_tokens || generated->events_s.empty()) {
      return absl::FailedPreconditionError(StrCat(door.name, ": a prompt of ", generated->prompt_tokens,
                                                  " tokens and ", generated->events_s.size(),
                                                  " events, expected ", flags_.input_tokens, " and some"));
    }
    return generated;
  }

  // Each round begins at another door.
  Door& At(int round, size_t turn) { return doors_[(static_cast<size_t>(round) + turn) % doors_.size()]; }

  absl::Status FirstTokens(int round, bool counts) {
    MOEPOOL_ASSIGN_OR_RETURN(const BenchPrompt prompt, MakePrompt());
    for (size_t turn = 0; turn < doors_.size(); ++turn) {
      Door& door = At(round, turn);
      const double begin_s = SteadySeconds();
      MOEPOOL_ASSIGN_OR_RETURN(const Generated generated, Send(door, prompt, flags_.output_tokens));
      if (counts) door.ttft_ms.push_back((generated.events_s.front() - begin_s) * 1e3);
    }
    return absl::OkStatus();
  }

  // Of the gateway, since it started.
  absl::StatusOr<double> CpuSeconds() {
    MOEPOOL_ASSIGN_OR_RETURN(const HttpAnswer answer,
                             http_->Exchange("/metrics", "", absl::Now() + absl::Seconds(flags_.timeout_s)));
    constexpr std::string_view kName = "\nprocess_cpu_seconds_total ";
    const size_t at = answer.body.find(kName);
    double seconds = 0;
    if (answer.status != 200 || at == std::string::npos ||
        !absl::SimpleAtod(
            answer.body.substr(at + kName.size(), answer.body.find('\n', at + 1) - at - kName.size()),
            &seconds)) {
      return absl::FailedPreconditionError(
          StrCat("/metrics: HTTP ", answer.status, " and no process_cpu_seconds_total"));
    }
    return seconds;
  }

  absl::Status Streams(int round, bool counts) {
    std::vector<BenchPrompt> prompts;
    for (int i = 0; i < flags_.streams; ++i) {
      MOEPOOL_ASSIGN_OR_RETURN(BenchPrompt prompt, MakePrompt());
      prompts.push_back(std::move(prompt));
    }
    for (size_t turn = 0; turn < doors_.size(); ++turn) {
      Door& door = At(round, turn);
      MOEPOOL_ASSIGN_OR_RETURN(const double cpu_s, CpuSeconds());
      const std::vector<RequestOutcome> outcomes =
          RunLoad({.requests = prompts.size(), .clients = flags_.streams},
                  [&](size_t i) { return Send(door, prompts[i], flags_.stream_tokens); });
      const LoadReport report = Evaluate(outcomes, flags_.stream_tokens, {});
      if (!report.errors.empty()) return absl::UnavailableError(report.errors.begin()->first);
      if (!counts) continue;
      const auto tokens = static_cast<double>(report.output_tokens);
      MOEPOOL_ASSIGN_OR_RETURN(const double cpu_end_s, CpuSeconds());
      door.tokens_per_s.push_back(tokens / report.duration_s);
      door.gateway_cpu_us.push_back((cpu_end_s - cpu_s) * 1e6 / tokens);
    }
    return absl::OkStatus();
  }

  json Report() const {
    json doors = json::array();
    for (const Door& door : doors_) {
      std::vector<double> added_ms;
      std::vector<double> ratios;
      for (size_t i = 0; i < door.ttft_ms.size(); ++i) {
        added_ms.push_back(door.ttft_ms[i] - doors_.front().ttft_ms[i]);
      }
      for (size_t i = 0; i < door.tokens_per_s.size(); ++i) {
        ratios.push_back(door.tokens_per_s[i] / doors_.front().tokens_per_s[i]);
      }
      doors.push_back({{"door", door.name},
                       {"ttft_ms", ToJson(Describe(door.ttft_ms))},
                       {"added_ttft_ms", ToJson(Describe(added_ms))},
                       {"tokens_per_s", ToJson(Summarize(door.tokens_per_s))},
                       {"throughput_ratio", ToJson(Summarize(ratios))},
                       {"gateway_cpu_us_per_token", ToJson(Summarize(door.gateway_cpu_us))}});
    }
    return {{"bench", "gateway"},        {"version", kVersion},
            {"pairs", flags_.pairs},     {"input_tokens", flags_.input_tokens},
            {"streams", flags_.streams}, {"stream_tokens", flags_.stream_tokens},
            {"rounds", flags_.rounds},   {"doors", std::move(doors)}};
  }

  const Flags& flags_;
  std::mt19937_64 random_;
  std::unique_ptr<HttpClient> http_;
  std::vector<Door> doors_;  // the router first
};

void Print(const json& whole) {
  std::printf("%d prompts of %d tokens, each through every door; then %d rounds of %d streams of %d tokens\n",
              whole["pairs"].get<int>(), whole["input_tokens"].get<int>(), whole["rounds"].get<int>(),
              whole["streams"].get<int>(), whole["stream_tokens"].get<int>());
  std::printf("  %-8s %12s %14s %14s %16s %20s\n", "door", "ttft p50 ms", "added p50 ms", "tokens/s",
              "beside router's", "gateway CPU us/token");
  for (const json& door : whole["doors"]) {
    std::printf("  %-8s %12.3f %14.3f %14.1f %16.4f %20.1f\n",
                door["door"].get_ref<const std::string&>().c_str(), door["ttft_ms"]["p50"].get<double>(),
                door["added_ttft_ms"]["p50"].get<double>(), door["tokens_per_s"]["median"].get<double>(),
                door["throughput_ratio"]["median"].get<double>(),
                door["gateway_cpu_us_per_token"]["median"].get<double>());
  }
}

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const json whole, Bench(flags).Run());
  flags.json ? static_cast<void>(std::puts(whole.dump(2).c_str())) : Print(whole);
  return absl::OkStatus();
}

}  // namespace

void AddBenchGatewayCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("gateway", "what a gateway costs beside its router's own stream");
  const auto count = [&](const char* name, int* value, int least, const char* help) {
    command->add_option(name, *value, help)->check(CLI::Range(least, 1 << 20))->capture_default_str();
  };
  command->add_option("--router", flags->router, "host:port; started with --prefix-cache off")->required();
  command->add_option("--http", flags->http, "host:port of the gateway's HTTP")->required();
  command->add_option("--grpc", flags->grpc, "host:port of the gateway's gRPC")->required();
  count("--pairs", &flags->pairs, 1, "prompts whose first token is waited for, one at a time");
  count("--warmup", &flags->warmup, 0, "more of them first, which do not count");
  count("--input-tokens", &flags->input_tokens, 1, "of each prompt");
  count("--output-tokens", &flags->output_tokens, 1, "of each of these answers");
  count("--streams", &flags->streams, 1, "at a time, for the throughput");
  count("--stream-tokens", &flags->stream_tokens, 1, "of each stream");
  count("--rounds", &flags->rounds, 1, "of streams through each door, after one that does not count");
  command->add_option("--seed", flags->seed, "of the prompts")->capture_default_str();
  command->add_option("--timeout-seconds", flags->timeout_s, "for one request")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
