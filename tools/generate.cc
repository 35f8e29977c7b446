// `moepool generate`: asks a gateway and streams the answer on standard output.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <optional>

#include "CLI/CLI.hpp"
#include "common/base/status_macros.h"
#include "common/rpc/inference_client.h"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string gateway = "127.0.0.1:50051";
  std::string prompt;
  std::string system;
  int max_tokens = 256;
  std::optional<double> temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
  std::optional<int> top_k;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool raw = false;
  bool verbose = false;
  double timeout_seconds = 600;
};

v1::GenerateRequest MakeRequest(const Flags& flags) {
  v1::GenerateRequest request;
  std::string prompt = flags.prompt;
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  if (flags.system.empty()) {
    request.set_prompt(prompt);
  } else {
    v1::Message* system = request.mutable_messages()->add_messages();
    system->set_role("system");
    system->set_content(flags.system);
    v1::Message* user = request.mutable_messages()->add_messages();
    user->set_role("user");
    user->set_content(prompt);
  }
  request.set_max_tokens(flags.max_tokens);
  request.set_raw(flags.raw);
  for (const std::string& stop : flags.stop) request.add_stop(stop);
  v1::Sampling* sampling = request.mutable_sampling();
  if (flags.temperature) sampling->set_temperature(*flags.temperature);
  if (flags.top_p) sampling->set_top_p(*flags.top_p);
  if (flags.top_k) sampling->set_top_k(*flags.top_k);
  if (flags.min_p) sampling->set_min_p(*flags.min_p);
  if (flags.seed) sampling->set_seed(*flags.seed);
  if (flags.presence_penalty) sampling->set_presence_penalty(*flags.presence_penalty);
  if (flags.frequency_penalty) sampling->set_frequency_penalty(*flags.frequency_penalty);
  if (flags.repetition_penalty) sampling->set_repetition_penalty(*flags.repetition_penalty);
  return request;
}

absl::Status Run(const Flags& flags) {
  bool newline = true;
  const auto print = [&](std::string_view text) {
    newline = text.back() == '\n';
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  };
  MOEPOOL_ASSIGN_OR_RETURN(
      const v1::GenerateResponse last,
      StreamGenerate(flags.gateway, MakeRequest(flags), absl::Seconds(flags.timeout_seconds), print));
  if (!newline) std::puts("");
  if (!flags.verbose) return absl::OkStatus();
  const double decode_seconds = last.timings().decode_ms() / 1000;
  const int decoded = last.usage().completion_tokens() - 1;
  std::fprintf(stderr,
               "finish: %s  prompt: %d tokens  answer: %d tokens  first token: %.1f ms  decode: %.1f "
               "tokens/s  seed: %llu\n",
               last.finish_reason() == v1::FINISH_REASON_STOP ? "stop" : "length",
               last.usage().prompt_tokens(), last.usage().completion_tokens(), last.timings().ttft_ms(),
               decode_seconds > 0 && decoded > 0 ? decoded / decode_seconds : 0.0,
               static_cast<unsigned long long>(last.seed()));
  return absl::OkStatus();
}

}  // namespace

void AddGenerateCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("generate", "ask a gateway, and stream the answer");
  command->add_option("--gateway", flags->gateway, "host:port of a gateway's gRPC");
  command->add_option("--system", flags->system, "system prompt");
  command->add_option("--max-tokens", flags->max_tokens);
  command->add_option("--temperature", flags->temperature, "0 (default): the most likely token");
  command->add_option("--top-p", flags->top_p);
  command->add_option("--top-k", flags->top_k);
  command->add_option("--min-p", flags->min_p);
  command->add_option("--seed", flags->seed);
  command->add_option("--presence-penalty", flags->presence_penalty);
  command->add_option("--frequency-penalty", flags->frequency_penalty);
  command->add_option("--repetition-penalty", flags->repetition_penalty);
  command->add_option("--stop", flags->stop, "ends the answer; may be given several times")
      ->take_all()
      ->expected(1);
  command->add_flag("--raw", flags->raw, "no chat template");
  command->add_flag("--verbose", flags->verbose, "usage and timings on stderr");
  command->add_option("--timeout-seconds", flags->timeout_seconds)->check(CLI::PositiveNumber);
  command->add_option("prompt", flags->prompt, "the prompt; - for standard input")->required();
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
