// What `moepool chat` keeps and what its commands do, apart from terminal and gateway.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace moepool {

struct ChatTurn {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

class ChatSession {
 public:
  explicit ChatSession(std::string system) : system_(std::move(system)) {}

  // All turns, the system prompt first where there is one.
  std::vector<ChatTurn> Turns() const;
  // A question and what became of it. An answer that was cut off counts as far as it went.
  void Add(std::string question, std::string answer);

  enum class Next { kGoOn, kQuit };
  struct Outcome {
    Next next = Next::kGoOn;
    std::string message;  // for the user
  };
  // A line that begins with '/'. InvalidArgument: no such command, or not so.
  absl::StatusOr<Outcome> Command(std::string_view line);

 private:
  absl::StatusOr<Outcome> Save(const std::string& path) const;

  std::string system_;
  std::vector<ChatTurn> turns_;  // question, answer, question, …
};

// Lines into messages: a line that ends in a backslash goes on in the next; after a line of """ comes text up
// to another, in which nothing has a meaning of its own. Either may stand before or after other text.
class MessageReader {
 public:
  // A whole message, or nothing yet.
  std::optional<std::string> Add(std::string_view line);
  bool pending() const { return pending_; }
  void Reset();

 private:
  std::string text_;
  bool pending_ = false;
  bool quoted_ = false;
};

}  // namespace moepool
