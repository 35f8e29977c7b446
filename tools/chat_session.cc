#include "tools/chat_session.h"

#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace moepool {
namespace {

constexpr char kHelp[] =
    R"(/system [TEXT]  show the system prompt, or set it from the next answer on; /system - for none
/clear          forget the conversation
/undo           forget the last question and its answer
/save FILE      write the conversation as JSON messages
/quit           end; so does Ctrl-D
A line that ends in \ goes on in the next; """ begins and ends text of several lines.
Ctrl-C stops an answer.)";

constexpr std::string_view kQuotes = "\"\"\"";

}  // namespace

std::vector<ChatTurn> ChatSession::Turns() const {
  std::vector<ChatTurn> turns;
  if (!system_.empty()) turns.push_back({"system", system_});
  turns.insert(turns.end(), turns_.begin(), turns_.end());
  return turns;
}

void ChatSession::Add(std::string question, std::string answer) {
  turns_.push_back({"user", std::move(question)});
  turns_.push_back({"assistant", std::move(answer)});
}

absl::StatusOr<ChatSession::Outcome> ChatSession::Command(std::string_view line) {
  const size_t space = line.find(' ');
  const std::string name(line.substr(0, space));
  std::string argument(space == std::string_view::npos ? "" : line.substr(space + 1));
  absl::StripAsciiWhitespace(&argument);
  if (name == "/system") {
    if (!argument.empty()) system_ = argument == "-" ? "" : argument;
    return Outcome{.message = system_.empty() ? "no system prompt" : absl::StrCat("system: ", system_)};
  }
  if (name == "/save") return Save(argument);
  if (!argument.empty())
    return absl::InvalidArgumentError(absl::StrCat(name, " takes nothing, not '", argument, "'"));
  if (name == "/quit" || name == "/exit") return Outcome{Next::kQuit, ""};
  if (name == "/help") return Outcome{.message = kHelp};
  if (name == "/clear") {
    turns_.clear();
    return Outcome{.message = "forgotten"};
  }
  if (name == "/undo") {
    if (turns_.empty()) return Outcome{.message = "nothing to undo"};
    turns_.resize(turns_.size() - 2);
    return Outcome{
        .message = absl::StrCat(turns_.size() / 2, turns_.size() == 2 ? " question" : " questions", " left")};
  }
  return absl::InvalidArgumentError(absl::StrCat("no command ", name, "; /help lists them"));
}

absl::StatusOr<ChatSession::Outcome> ChatSession::Save(const std::string& path) const {
  if (path.empty()) return absl::InvalidArgumentError("/save takes the name of a file");
  nlohmann::ordered_json messages = nlohmann::ordered_json::array();
  for (const ChatTurn& turn : Turns()) messages.push_back({{"role", turn.role}, {"content", turn.content}});
  std::ofstream file(path, std::ios::binary);
  file << messages.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) return absl::InvalidArgumentError(absl::StrCat("cannot write '", path, "'"));
  return Outcome{.message = absl::StrCat("saved ", messages.size(), " messages to ", path)};
}

std::optional<std::string> MessageReader::Add(std::string_view line) {
  // Quotes switch quoting on and off wherever they stand; outside them only a backslash at the end matters.
  while (true) {
    const size_t at = line.find(kQuotes);
    if (at == std::string_view::npos) break;
    text_.append(line.substr(0, at));
    line.remove_prefix(at + kQuotes.size());
    // A line end right before the closing quotes is not part of the text either.
    if (quoted_ && text_.ends_with('\n')) text_.pop_back();
    quoted_ = !quoted_;
    // The line end right after the opening quotes is not part of the text.
    if (quoted_ && line.empty()) return pending_ = true, std::nullopt;
  }
  if (!quoted_ && line.ends_with('\\')) {
    text_.append(line.substr(0, line.size() - 1));
    text_ += '\n';
    return pending_ = true, std::nullopt;
  }
  text_.append(line);
  if (quoted_) {
    text_ += '\n';
    return pending_ = true, std::nullopt;
  }
  std::string message = std::move(text_);
  Reset();
  return message;
}

void MessageReader::Reset() {
  text_.clear();
  pending_ = false;
  quoted_ = false;
}

}  // namespace moepool
