// Events of one request to an HTTP answer: one JSON object, or server-sent events.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "boost/asio/steady_timer.hpp"
#include "common/base/mutex.h"
#include "gateway/http/http_server.h"
#include "gateway/inference.h"
#include "nlohmann/json.hpp"

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

std::shared_ptr<InferAnswer> MakeJsonAnswer(std::shared_ptr<HttpResponder> responder,
                                            const InferAnswerOptions& options);

// The stream's header goes out with the first text or the first keep-alive comment, so that a refusal before
// is an HTTP status of its own. A failure afterwards is the last `data:` line, and no [DONE] follows it.
std::shared_ptr<InferAnswer> MakeStreamAnswer(std::shared_ptr<HttpResponder> responder,
                                              const InferAnswerOptions& options,
                                              boost::asio::thread_pool* pool,
                                              absl::Duration keepalive_interval);

}  // namespace moepool
