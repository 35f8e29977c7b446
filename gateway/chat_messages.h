// The messages of a conversation, as requests carry them.
#pragma once

#include <string>
#include <vector>

#include "gateway/json_fields.h"

namespace moepool {

struct ChatMessage {
  std::string role;
  std::string content;
  // What else the template gets: name, tool_calls (arguments as the client wrote them: text or an object),
  // tool_call_id, reasoning_content; "content" null where the message has none.
  nlohmann::ordered_json fields = nlohmann::ordered_json::object();
};

// Names of the fields of a message that ReadMessages knows.
std::vector<std::string> MessageFieldNames();

// A list of messages. Content is text, a list of text parts (joined by line breaks), or null beside
// tool_calls. A refusal is text too, as a part and in the place of content. InvalidField names the place, and
// parts that are no text.
absl::Status ReadMessages(const std::string& field, const nlohmann::ordered_json& value,
                          UnknownFields unknown, std::vector<ChatMessage>* out);

// A list of {"type": "function", "function": {"name", "description", "parameters", "strict"}}, each
// name given once. InvalidField names the place.
absl::Status ReadTools(const std::string& field, const nlohmann::ordered_json& value,
                       nlohmann::ordered_json* out);

}  // namespace moepool
