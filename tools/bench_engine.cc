// `moepool bench engine`: tokens a second by phase and batch, of an engine in this process or of a running
// router.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <utility>

#include "CLI/CLI.hpp"
#include "common/base/config.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/rpc/trunk_client.h"
#include "nlohmann/json.hpp"
#include "tools/bench.h"
#include "tools/bench_phases.h"
#include "tools/embedded.h"

namespace moepool {
namespace {

using nlohmann::json;

struct Flags {
  EmbeddedFlags engine;
  std::string router;
  std::vector<int> prefill;
  std::vector<int> decode;
  int decode_prompt = 16;
  std::vector<int> streams;
  SequenceSpec stream = {16, 64};
  bool batching = false;
  BatchingSpec mixed;
  PhaseRepetitions reps;
  uint64_t seed = 1;
  double timeout_s = 600;
  bool json = false;
};

json ExchangeJson(const PhaseResult& result, bool in_process) {
  json exchange = {{"layers", result.exchange.count()},
                   {"p50_us", result.exchange.Quantile(0.5) * 1e6},
                   {"p99_us", result.exchange.Quantile(0.99) * 1e6},
                   {"own_p50_us", nullptr},
                   {"own_p99_us", nullptr}};
  // Workers in the router's own thread compute one after another, so the longest says nothing.
  if (in_process) return exchange;
  exchange["own_p50_us"] = result.exchange_own.Quantile(0.5) * 1e6;
  exchange["own_p99_us"] = result.exchange_own.Quantile(0.99) * 1e6;
  return exchange;
}

class Report {
 public:
  Report(const Flags& flags, const ModelInfo& model, const PoolInfo& pool)
      : to_json_(flags.json), in_process_(flags.router.empty()) {
    json workers = json::array();
    for (const PoolWorkerInfo& w : pool.workers) {
      workers.push_back({{"name", w.name},
                         {"transport", w.transport},
                         {"backend", w.backend},
                         {"experts_held", w.experts_held},
                         {"expert_bytes", w.expert_bytes}});
    }
    whole_ = {{"bench", "engine"},
              {"version", kVersion},
              {"target", in_process_ ? "in_process" : flags.router},
              {"model", model.name},
              {"family", model.family},
              {"layers", model.layers},
              {"experts", model.experts},
              {"experts_per_token", model.experts_per_token},
              {"workers", std::move(workers)},
              {"reps", flags.reps.counted},
              {"warmup", flags.reps.warmup},
              {"seed", flags.seed},
              {"results", json::array()}};
    Note(StrCat("model ", model.name, "   ", in_process_ ? "in process" : flags.router, "   workers ",
                pool.workers.size(), "   medians of ", flags.reps.counted, " (range)"));
  }

  void Add(const PhaseResult& result) {
    json entry = {{"phase", result.phase}, {"exchange", ExchangeJson(result, in_process_)}};
    std::string line = result.phase;
    for (const auto& [name, value] : result.shape) {
      entry[name] = value;
      line += StrCat("  ", name, " ", value);
    }
    Note(line);
    for (const auto& [name, summary] : result.figures) {
      entry[name] = ToJson(summary);
      char text[160];
      std::snprintf(text, sizeof(text), "  %-26s %10.2f   (%.2f to %.2f)", name.c_str(), summary.median,
                    summary.min, summary.max);
      Note(text);
    }
    char text[160];
    std::snprintf(text, sizeof(text), "  %-26s %10.1f   p99 %.1f", "exchange of a layer, us",
                  result.exchange.Quantile(0.5) * 1e6, result.exchange.Quantile(0.99) * 1e6);
    Note(text);
    if (!in_process_) {
      std::snprintf(text, sizeof(text), "  %-26s %10.1f   p99 %.1f", "  without computing, us",
                    result.exchange_own.Quantile(0.5) * 1e6, result.exchange_own.Quantile(0.99) * 1e6);
      Note(text);
    }
    whole_["results"].push_back(std::move(entry));
  }

  void Finish() const {
    if (to_json_) std::puts(whole_.dump(2).c_str());
  }

 private:
  // For people: on standard output unless that is for JSON.
  void Note(const std::string& line) const {
    std::fprintf(to_json_ ? stderr : stdout, "%s\n", line.c_str());
    std::fflush(to_json_ ? stderr : stdout);
  }

  const bool to_json_;
  const bool in_process_;
  json whole_;
};

absl::Status Measure(const Flags& flags, Trunk* trunk) {
  MOEPOOL_ASSIGN_OR_RETURN(const ModelInfo model, trunk->Describe());
  SequenceRunner runner(trunk, model, flags.seed, absl::Seconds(flags.timeout_s));
  MOEPOOL_ASSIGN_OR_RETURN(const PoolInfo pool, runner.IdlePool());
  if (!pool.ready) return absl::UnavailableError(StrCat("the pool is not ready: ", pool.waiting_for));
  Report report(flags, model, pool);
  const auto add = [&](const absl::StatusOr<PhaseResult>& result) {
    if (result.ok()) report.Add(*result);
    return result.status();
  };
  for (const int tokens : flags.prefill) {
    MOEPOOL_RETURN_IF_ERROR(add(MeasurePrefill(&runner, tokens, flags.reps)));
  }
  for (const int tokens : flags.decode) {
    MOEPOOL_RETURN_IF_ERROR(add(MeasureDecode(&runner, {flags.decode_prompt, tokens}, flags.reps)));
  }
  for (const int streams : flags.streams) {
    MOEPOOL_RETURN_IF_ERROR(add(MeasureStreams(&runner, streams, flags.stream, flags.reps)));
  }
  if (flags.batching) {
    BatchingSpec mixed = flags.mixed;
    mixed.seed = flags.seed;
    MOEPOOL_RETURN_IF_ERROR(add(MeasureBatching(&runner, mixed, flags.reps)));
  }
  report.Finish();
  return absl::OkStatus();
}

absl::Status Run(Flags flags) {
  if (flags.prefill.empty() && flags.decode.empty() && flags.streams.empty() && !flags.batching) {
    return absl::InvalidArgumentError(
        "nothing to measure: --prefill, --decode, --streams and --batching are missing");
  }
  if (flags.router.empty() == flags.engine.model.empty()) {
    return absl::InvalidArgumentError(flags.router.empty() ? "--model or --router is missing"
                                                           : "--model and --router are both given");
  }
  if (flags.mixed.min_tokens > flags.mixed.max_tokens) {
    return absl::InvalidArgumentError(StrCat("--batching-min is ", flags.mixed.min_tokens,
                                             ", more than --batching-max, ", flags.mixed.max_tokens));
  }
  if (!flags.router.empty()) {
    GrpcTrunk trunk(flags.router);
    return Measure(flags, &trunk);
  }
  int at_once = flags.batching ? flags.mixed.running : 1;
  for (const int streams : flags.streams) at_once = std::max(at_once, streams);
  flags.engine.max_running = std::max(flags.engine.max_running, at_once);
  MOEPOOL_ASSIGN_OR_RETURN(const std::unique_ptr<Embedded> embedded, MakeEmbedded(flags.engine));
  absl::Status measured = Measure(flags, embedded->engine.get());
  if (const SegmentStats segments = embedded->backend->Segments(); segments.recorded > 0) {
    std::fprintf(
        stderr, "%s\n",
        StrCat("CUDA graphs: ", segments.recorded, " recorded, ", segments.replayed, " replayed").c_str());
  }
  return measured;
}

}  // namespace

void AddBenchEngineCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app->add_subcommand("engine", "tokens a second by phase and batch, in this process or of a router");
  AddEmbeddedFlags(command, &flags->engine);
  command->get_option("--model")->required(false);
  command->add_option("--router", flags->router, "host:port of a running router, in place of --model");
  const auto counts = [&](const char* name, std::vector<int>* values, const char* help) {
    command->add_option(name, *values, help)->delimiter(',')->check(CLI::Range(1, 1 << 20));
  };
  const auto count = [&](const char* name, int* value, const char* help) {
    command->add_option(name, *value, help)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  };
  AddOffFlag(command, "--no-fusion", &flags->engine.backend.fused,
             "cuda: launch kernels one by one that otherwise are one");
  counts("--prefill", &flags->prefill, "prompt lengths, such as 512,2048");
  counts("--decode", &flags->decode, "ids that one stream makes (at least 2)");
  count("--decode-prompt", &flags->decode_prompt, "its prompt's length");
  counts("--streams", &flags->streams, "numbers of streams that decode at once, such as 8,16,32");
  count("--stream-prompt", &flags->stream.prompt_tokens, "prompt length of each");
  count("--stream-tokens", &flags->stream.new_tokens, "ids that each makes");
  command->add_flag("--batching", flags->batching, "continuous against static batching on mixed lengths");
  count("--batching-requests", &flags->mixed.requests, "requests");
  count("--batching-running", &flags->mixed.running, "of them at once");
  count("--batching-min", &flags->mixed.min_tokens, "shortest answer");
  count("--batching-max", &flags->mixed.max_tokens, "longest answer; lengths are log-uniform");
  count("--reps", &flags->reps.counted, "repetitions of each phase");
  command->add_option("--warmup", flags->reps.warmup, "more of them first, which do not count")
      ->check(CLI::Range(0, 1000))
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of the prompts")->capture_default_str();
  command->add_option("--timeout-seconds", flags->timeout_s, "for one repetition")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_flag("--json", flags->json, "one JSON object on standard output");
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
