// `moepool chat`: a conversation with a gateway, in the terminal or, where there is none, one question from
// standard input.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "CLI/CLI.hpp"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/rpc/inference_client.h"
#include "tools/api_key.h"
#include "tools/chat_session.h"
#include "tools/commands.h"
#include "tools/interrupts.h"
#include "tools/line_editor.h"
#include "tools/terminal_text.h"

namespace moepool {
namespace {

struct Flags {
  std::string gateway = "127.0.0.1:50051";
  std::string api_key_file;
  std::string system;
  int max_tokens = 1024;
  double temperature = 0.7;
  std::optional<double> top_p, min_p, repetition_penalty;
  std::optional<int> top_k, max_reasoning_tokens;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool verbose = false;
  double timeout_seconds = 600;
};

v1::GenerateRequest MakeRequest(const Flags& flags, const std::vector<ChatTurn>& turns) {
  v1::GenerateRequest request;
  for (const ChatTurn& turn : turns) {
    v1::Message* const message = request.mutable_messages()->add_messages();
    message->set_role(turn.role);
    message->set_content(turn.content);
  }
  request.set_max_tokens(flags.max_tokens);
  if (flags.max_reasoning_tokens) request.set_max_reasoning_tokens(*flags.max_reasoning_tokens);
  for (const std::string& stop : flags.stop) request.add_stop(stop);
  v1::Sampling* const sampling = request.mutable_sampling();
  sampling->set_temperature(flags.temperature);
  if (flags.top_p) sampling->set_top_p(*flags.top_p);
  if (flags.top_k) sampling->set_top_k(*flags.top_k);
  if (flags.min_p) sampling->set_min_p(*flags.min_p);
  if (flags.repetition_penalty) sampling->set_repetition_penalty(*flags.repetition_penalty);
  if (flags.seed) sampling->set_seed(*flags.seed);
  return request;
}

// An answer as it goes to standard output.
class Printer {
 public:
  explicit Printer(bool terminal)
      : terminal_(terminal), dims_(terminal && std::getenv("NO_COLOR") == nullptr) {}
  ~Printer() { EndThought(); }
  // False where nobody reads any more.
  bool Text(const std::string& text) {
    if (text.empty()) return true;
    EndThought();
    return Write(terminal_ ? TerminalText(text) : text);
  }
  // What the model thinks, which is not part of the answer: on a terminal alone.
  bool Thought(const std::string& text) {
    if (!terminal_ || text.empty()) return true;
    if (!thinking_) {
      thinking_ = true;
      if (dims_) std::fputs("\x1b[2m", stdout);
    }
    return Write(TerminalText(text));
  }
  void End() {
    EndThought();
    if (!newline_) Write("\n");
  }

 private:
  void EndThought() {
    if (!thinking_) return;
    thinking_ = false;
    if (dims_) std::fputs("\x1b[0m", stdout);
    Write("\n\n");
  }
  bool Write(const std::string& text) {
    if (text.empty()) return true;
    newline_ = text.back() == '\n';
    return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  }

  const bool terminal_;
  const bool dims_;
  bool thinking_ = false;
  bool newline_ = true;
};

void PrintFigures(const v1::GenerateResponse& last) {
  const double seconds = last.timings().decode_ms() / 1000;
  const int decoded = last.usage().completion_tokens() - 1;
  std::fprintf(stderr, "[%d tokens, %.1f tokens/s, first after %.0f ms]\n", last.usage().completion_tokens(),
               seconds > 0 && decoded > 0 ? decoded / seconds : 0.0, last.timings().ttft_ms());
}

class Chat {
 public:
  Chat(const Flags& flags, std::string api_key)
      : flags_(flags), client_(flags.gateway, {.api_key = std::move(api_key)}), session_(flags.system) {}

  // One question; its answer is all that goes to standard output.
  absl::Status Once(const std::string& question) { return Ask(question, /*terminal=*/false, nullptr); }

  absl::Status Converse() {
    Greet();
    LineEditor editor;
    Interrupts interrupts;
    MessageReader reader;
    while (true) {
      const LineEditor::Input input = editor.Read(reader.pending() ? ". " : "> ");
      if (input.kind == LineEditor::Kind::kEnd) {
        std::fputs("\n", stdout);
        return absl::OkStatus();
      }
      if (input.kind == LineEditor::Kind::kInterrupted) {
        reader.Reset();
        continue;
      }
      editor.Remember(input.line);
      const bool command = !reader.pending() && input.line.starts_with('/');
      if (command) {
        const absl::StatusOr<ChatSession::Outcome> outcome = session_.Command(input.line);
        if (outcome.ok() && outcome->next == ChatSession::Next::kQuit) return absl::OkStatus();
        Tell(outcome.ok() ? outcome->message : std::string(outcome.status().message()));
        continue;
      }
      const std::optional<std::string> message = reader.Add(input.line);
      if (!message.has_value() || absl::StripAsciiWhitespace(*message).empty()) continue;
      if (const absl::Status status = Ask(*message, /*terminal=*/true, &interrupts); !status.ok()) {
        Tell(absl::StrCat("error: ", std::string(status.message())));
      }
    }
  }

 private:
  static void Tell(const std::string& message) {
    std::fprintf(stderr, "%s\n", TerminalText(message).c_str());
  }

  void Greet() {
    const auto model = client_.GetModel(absl::Now() + absl::Seconds(5));
    Tell(model.ok() ? absl::StrCat(model->name(), "; /help lists commands, Ctrl-D ends")
                    : absl::StrCat("error: ", std::string(model.status().message())));
  }

  absl::Status Ask(const std::string& question, bool terminal, Interrupts* interrupts) {
    std::vector<ChatTurn> turns = session_.Turns();
    turns.push_back({"user", question});
    Cancellation cancellation;
    if (interrupts != nullptr) interrupts->Set([&] { cancellation.Cancel(); });
    Printer printer(terminal);
    std::string answer;
    const absl::StatusOr<v1::GenerateResponse> last = client_.Generate(
        MakeRequest(flags_, turns), absl::Now() + absl::Seconds(flags_.timeout_seconds),
        [&](const v1::GenerateResponse& message) {
          answer += message.text();
          return printer.Thought(message.reasoning()) && printer.Text(message.text());
        },
        &cancellation);
    if (interrupts != nullptr) interrupts->Set(nullptr);
    printer.End();
    const bool stopped = absl::IsCancelled(last.status()) && cancellation.cancelled();
    if (!last.ok() && !stopped) return last.status();
    if (!stopped || !answer.empty()) session_.Add(question, answer);
    if (stopped) {
      Tell("[stopped]");
    } else if (flags_.verbose) {
      PrintFigures(*last);
    }
    return absl::OkStatus();
  }

  const Flags& flags_;
  const InferenceClient client_;
  ChatSession session_;
};

absl::Status Run(const Flags& flags) {
  MOEPOOL_ASSIGN_OR_RETURN(std::string api_key, ReadApiKey(flags.api_key_file));
  Chat chat(flags, std::move(api_key));
  if (isatty(STDIN_FILENO) != 0 && isatty(STDOUT_FILENO) != 0) return chat.Converse();
  std::string question(std::istreambuf_iterator<char>(std::cin), {});
  absl::StripTrailingAsciiWhitespace(&question);
  if (question.empty()) return absl::InvalidArgumentError("standard input is empty, and no terminal");
  return chat.Once(question);
}

}  // namespace

void AddChatCommand(CLI::App* app, CommandRunner* run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app->add_subcommand("chat", "talk with a gateway, in the terminal");
  command->add_option("--gateway", flags->gateway, "host:port of a gateway's gRPC")->capture_default_str();
  AddApiKeyFlag(command, &flags->api_key_file);
  command->add_option("--system", flags->system, "system prompt");
  command->add_option("--max-tokens", flags->max_tokens, "of an answer")->capture_default_str();
  command->add_option("--max-reasoning-tokens", flags->max_reasoning_tokens,
                      "of what comes before an answer");
  command->add_option("--temperature", flags->temperature, "0: the most likely token")->capture_default_str();
  command->add_option("--top-p", flags->top_p);
  command->add_option("--top-k", flags->top_k);
  command->add_option("--min-p", flags->min_p);
  command->add_option("--repetition-penalty", flags->repetition_penalty);
  command->add_option("--seed", flags->seed, "default: drawn for each answer");
  command->add_option("--stop", flags->stop, "ends an answer; may be given several times")
      ->take_all()
      ->expected(1);
  command->add_flag("--verbose", flags->verbose, "tokens and times of each answer on stderr");
  command->add_option("--timeout-seconds", flags->timeout_seconds, "of an answer")
      ->check(CLI::PositiveNumber);
  command->callback([flags, run] { *run = [flags] { return Run(*flags); }; });
}

}  // namespace moepool
