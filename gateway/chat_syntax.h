// What a model's chat template can do, found out by trying it, and prompts from conversations: nothing is
// known by a model's name.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/text/chat_template.h"
#include "gateway/answer/tool_format.h"
#include "gateway/infer_request.h"

namespace moepool {

struct ChatSyntax {
  ToolFormat format = ToolFormat::kHermes;
  bool renders_tools = false;    // else the gateway writes tools, calls and results into the messages
  ToolCallForm spelling;         // of calls, after the marker
  bool object_arguments = true;  // the template wants arguments of calls as objects, not as text
  bool system_role = true;       // it takes a system message
  bool developer_role = false;
  bool thinks = false;  // the model thinks in <think>
};

struct SpecialText {
  std::string bos;
  std::string eos;
};

// Tries `chat_template`, whose source is given too.
ChatSyntax DetectChatSyntax(const ChatTemplate& chat_template, std::string_view source,
                            const SpecialText& special, absl::Time now);

// The text of a prompt. InvalidField where the template refuses the conversation.
absl::StatusOr<std::string> RenderChat(const ChatTemplate& chat_template, const ChatSyntax& syntax,
                                       const SpecialText& special, const InferRequest& request,
                                       const std::vector<ChatMessage>& messages, absl::Time now);

}  // namespace moepool
