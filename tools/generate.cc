// `moepool generate`: asks a gateway and streams the answer on standard output.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <optional>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/rpc/inference_client.h"
#include "nlohmann/json.hpp"
#include "tools/api_key.h"
#include "tools/commands.h"

namespace moepool {
namespace {

struct Flags {
  std::string gateway = "127.0.0.1:50051";
  std::string api_key_file;
  std::string prompt;
  std::string system;
  int max_tokens = 256;
  std::optional<double> temperature, top_p, min_p, presence_penalty, frequency_penalty, repetition_penalty;
  std::optional<double> dry_multiplier, dry_base;
  std::optional<int> top_k, repeat_last_n, dry_allowed_length, dry_penalty_last_n;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::string> dry_sequence_breakers;
  std::vector<std::string> logit_bias;
  int min_tokens = 0;
  int n = 1;
  bool ignore_eos = false;
  bool logprobs = false;
  int top_logprobs = 0;
  bool raw = false;
  bool verbose = false;
  double timeout_seconds = 600;
};

absl::StatusOr<v1::GenerateRequest> MakeRequest(const Flags& flags) {
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
  if (flags.repeat_last_n) sampling->set_repeat_last_n(*flags.repeat_last_n);
  if (flags.dry_multiplier) sampling->set_dry_multiplier(*flags.dry_multiplier);
  if (flags.dry_base) sampling->set_dry_base(*flags.dry_base);
  if (flags.dry_allowed_length) sampling->set_dry_allowed_length(*flags.dry_allowed_length);
  if (flags.dry_penalty_last_n) sampling->set_dry_penalty_last_n(*flags.dry_penalty_last_n);
  for (const std::string& breaker : flags.dry_sequence_breakers) {
    sampling->mutable_dry_sequence_breakers()->add_strings(breaker);
  }
  for (const std::string& given : flags.logit_bias) {
    const size_t equals = given.find('=');
    int32_t id = 0;
    double bias = 0;
    if (equals == std::string::npos || !absl::SimpleAtoi(given.substr(0, equals), &id) ||
        !absl::SimpleAtod(given.substr(equals + 1), &bias)) {
      return absl::InvalidArgumentError(absl::StrCat("--logit-bias is '", given, "', not ID=BIAS"));
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  sampling->set_min_tokens(flags.min_tokens);
  sampling->set_ignore_eos(flags.ignore_eos);
  sampling->set_logprobs(flags.logprobs || flags.top_logprobs != 0);
  sampling->set_top_logprobs(flags.top_logprobs);
  request.set_n(flags.n);
  return request;
}

// Text on standard output, the first answer's as it comes, the others' at their end; each under a line with
// its index where there are several.
class Printer {
 public:
  explicit Printer(int answers) : texts_(static_cast<size_t>(std::max(answers, 1))) {
    if (texts_.size() > 1) Write("[0]\n");
  }
  bool Add(const v1::GenerateResponse& message) {
    for (const v1::TokenLogprobs& logprobs : message.logprobs()) PrintLogprobs(message.index(), logprobs);
    if (message.index() > 0 && static_cast<size_t>(message.index()) < texts_.size()) {
      texts_[static_cast<size_t>(message.index())] += message.text();
      return true;
    }
    return Write(message.text());
  }
  void Finish() {
    EndLine();
    for (size_t i = 1; i < texts_.size(); ++i) {
      Write(absl::StrCat("[", i, "]\n", texts_[i]));
      EndLine();
    }
  }

 private:
  bool Write(const std::string& text) {
    if (text.empty()) return true;
    newline_ = text.back() == '\n';
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  }
  void EndLine() {
    if (!newline_) Write("\n");
  }
  static nlohmann::json ToJson(const v1::TokenLogprob& token) {
    return {{"id", token.id()}, {"text", token.token()}, {"logprob", token.logprob()}};
  }
  static void PrintLogprobs(int index, const v1::TokenLogprobs& logprobs) {
    nlohmann::json line = ToJson(logprobs.token());
    line["index"] = index;
    for (const v1::TokenLogprob& top : logprobs.top()) line["top"].push_back(ToJson(top));
    std::fprintf(stderr, "%s\n", line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }

  std::vector<std::string> texts_;
  bool newline_ = true;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(const v1::GenerateRequest request, MakeRequest(flags));
  MOEPOOL_ASSIGN_OR_RETURN(std::string api_key, ReadApiKey(flags.api_key_file));
  Printer printer(flags.n);
  MOEPOOL_ASSIGN_OR_RETURN(
      const v1::GenerateResponse last,
      InferenceClient(flags.gateway, {.api_key = std::move(api_key)})
          .Generate(request, absl::Now() + absl::Seconds(flags.timeout_seconds),
                    [&](const v1::GenerateResponse& message) { return printer.Add(message); }));
  printer.Finish();
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
  AddApiKeyFlag(command, &flags->api_key_file);
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
  command->add_option("--repeat-last-n", flags->repeat_last_n,
                      "ids of prompt and answer that the three penalties look at; -1: all");
  command->add_option("--dry-multiplier", flags->dry_multiplier, "0 (default): off");
  command->add_option("--dry-base", flags->dry_base);
  command->add_option("--dry-allowed-length", flags->dry_allowed_length);
  command->add_option("--dry-penalty-last-n", flags->dry_penalty_last_n);
  command->add_option("--dry-sequence-breaker", flags->dry_sequence_breakers, "may be given several times")
      ->take_all()
      ->expected(1);
  command
      ->add_option("--logit-bias", flags->logit_bias,
                   "ID=BIAS: added to the logit of a token; may be given several times")
      ->take_all()
      ->expected(1);
  command->add_option("--min-tokens", flags->min_tokens, "no end before");
  command->add_flag("--ignore-eos", flags->ignore_eos, "go on to --max-tokens");
  command->add_flag("--logprobs", flags->logprobs, "of each token, as lines of JSON on stderr");
  command->add_option("--top-logprobs", flags->top_logprobs, "and of so many of the most likely");
  command->add_option("--n", flags->n, "answers")->check(CLI::Range(1, 16));
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
