// Events of a request to the answer of /v1/chat/completions: one chat.completion, or a stream of chunks.
#pragma once

#include <memory>

#include "gateway/http/call_group.h"
#include "gateway/http/infer_answer.h"
#include "gateway/openai/answer_json.h"

namespace moepool {

struct ChatAnswerOptions {
  AnswerIdentity identity;
  int32_t n = 1;
  bool logprobs = false;  // were asked for
  bool include_usage = false;
};

// Cancels `calls` where the answer outgrows kMaxAnswerBytes.
std::shared_ptr<InferAnswer> MakeChatJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                                std::shared_ptr<CallGroup> calls,
                                                const ChatAnswerOptions& options);

// For each choice a chunk with the role, chunks with what is new, and one with the finish reason alone; at
// the end one with the usage and no choices where that is asked for.
std::shared_ptr<InferAnswer> MakeChatStreamAnswer(std::shared_ptr<SseStream> stream,
                                                  const ChatAnswerOptions& options);

}  // namespace moepool
