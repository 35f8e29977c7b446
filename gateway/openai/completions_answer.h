// Events of one request for each prompt to the answer of /v1/completions: one text_completion, or a stream of
// them.
#pragma once

#include <memory>

#include "gateway/http/call_group.h"
#include "gateway/http/sse_stream.h"
#include "gateway/openai/answer_json.h"

namespace moepool {

struct CompletionsAnswerOptions {
  AnswerIdentity identity;
  int32_t prompts = 1;
  int32_t n = 1;  // answers to each
  bool logprobs = false;
  bool include_usage = false;
};

// Thread-safe: the prompts' events come from different threads. The first failure ends it, and cancels the
// other calls.
class CompletionsAnswer {
 public:
  virtual ~CompletionsAnswer() = default;
  virtual void OnEvent(int32_t prompt, InferEvent event) = 0;
};

// Cancels `calls` where the answer outgrows kMaxAnswerBytes.
std::shared_ptr<CompletionsAnswer> MakeCompletionsJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                                             std::shared_ptr<CallGroup> calls,
                                                             const CompletionsAnswerOptions& options);
std::shared_ptr<CompletionsAnswer> MakeCompletionsStreamAnswer(std::shared_ptr<SseStream> stream,
                                                               std::shared_ptr<CallGroup> calls,
                                                               const CompletionsAnswerOptions& options);

}  // namespace moepool
