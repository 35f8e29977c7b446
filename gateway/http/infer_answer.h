// Events of one request to an HTTP answer: one JSON object, or server-sent events.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "gateway/http/call_group.h"
#include "gateway/http/http_server.h"
#include "gateway/http/sse_stream.h"
#include "gateway/inference.h"

namespace moepool {

// Thread-safe.
class InferAnswer {
 public:
  virtual ~InferAnswer() = default;
  virtual void OnEvent(InferEvent event) = 0;
};

struct InferAnswerOptions {
  int32_t n = 1;          // more than one: `choices`, and an `index` in each event of a stream
  bool logprobs = false;  // were asked for
};

// Cancels `calls` where the answer outgrows kMaxAnswerBytes.
std::shared_ptr<InferAnswer> MakeJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                            std::shared_ptr<CallGroup> calls,
                                            const InferAnswerOptions& options);

std::shared_ptr<InferAnswer> MakeStreamAnswer(std::shared_ptr<SseStream> stream,
                                              const InferAnswerOptions& options);

// What a JSON answer may grow to, text and written log-probabilities together: it is kept until its end.
inline constexpr size_t kMaxAnswerBytes = 64 << 20;
// OutOfRange, which says what to do about it.
absl::Status AnswerTooLarge();

// Adds pieces to the calls that they belong to.
void AddToolCalls(const std::vector<ToolCallDelta>& deltas, std::vector<ToolCallDelta>* calls);

}  // namespace moepool
