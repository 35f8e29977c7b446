// Runs requests: text to ids, a sequence on the trunk, ids to text. Front ends (HTTP, gRPC) only translate.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "boost/asio/thread_pool.hpp"
#include "common/base/mutex.h"
#include "common/trunk/trunk.h"
#include "gateway/admission.h"
#include "gateway/answer/tool_call_delta.h"
#include "gateway/gateway_metrics.h"
#include "gateway/infer_request.h"
#include "gateway/model_watcher.h"

namespace moepool {

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t reasoning_tokens = 0;  // of these
};

struct Timings {
  double queue_ms = 0;   // at the router, to admission
  double ttft_ms = 0;    // arrival here to the first token
  double decode_ms = 0;  // first token to last
};

struct LogprobEntry {
  int32_t id = -1;
  std::string bytes;  // of the token, a control token written out; not always whole characters
  float logprob = 0;
};

struct TokenLogprobEntries {
  LogprobEntry token;
  std::vector<LogprobEntry> top;
};

struct InferEvent {
  int32_t index = 0;  // the answer that the next ten are of
  // Of every id of the prompt where asked for, before any other event of the answer; the first id's logprob
  // is not a number, as nothing precedes it.
  std::vector<TokenLogprobEntries> prompt_logprobs;
  std::string reasoning;                      // new text of what the model thinks; before `text`
  std::string text;                           // new text
  std::vector<ToolCallDelta> tool_calls;      // after `text`
  std::vector<int32_t> ids;                   // new ids
  std::vector<TokenLogprobEntries> logprobs;  // one for each of ids where asked for, else none
  bool ended = false;                         // the answer's last event, in which these two are set
  FinishReason reason = FinishReason::kNone;
  uint64_t seed = 0;
  bool finished = false;  // the last event of all, in which the following are set; not OK: no answer is whole
  absl::Status status;
  std::string id;  // of the request
  Usage usage;     // of all answers, the prompt counted once
  Timings timings;
  std::string model;
};

// Events of one call come one at a time and in order, from a thread of the Inference's or one that its trunk
// lends, and end with one that is finished: that of the answer which ended last, or a failure.
using InferCallback = std::function<void(InferEvent)>;

// A request under way. Thread-safe.
class InferCall {
 public:
  virtual ~InferCall() = default;
  // Ends the request with Cancelled, unless it is over. Does not block; the trunk's call is cancelled before
  // the last event.
  virtual void Cancel() = 0;
  virtual const std::string& id() const = 0;
};

struct InferenceOptions {
  int max_requests = 256;  // this and the next two as AdmissionLimits has them
  int max_queue_requests = 0;
  int64_t max_queue_tokens = 0;
  int stream_threads = 2;       // hand out what the router generates
  int preparation_threads = 0;  // parse, render templates, tokenize; 0: one a core, at least two
  absl::Duration request_timeout = absl::Minutes(10);  // where the request sets none
  // The log has a line of its own for each request that takes this long.
  absl::Duration slow_request = absl::InfiniteDuration();
};

// Thread-safe.
class Inference {
 public:
  // All arguments outlive this.
  Inference(Trunk* trunk, ModelWatcher* watcher, GatewayMetrics* metrics, const InferenceOptions& options);
  // After Shutdown, and after every front end and InferCall is gone.
  ~Inference();

  // Admits nothing more, cancels what runs and returns when every last event has been delivered and the pools
  // are done with the front ends' work, which refers to them.
  void Shutdown();

  // Returns at once; whatever is wrong comes as the last event. The callback keeps no reference to the call.
  std::shared_ptr<InferCall> Start(InferRequest request, InferCallback on_event);
  // Ids of a text as a raw prompt of it would be fed. Runs in the caller's thread.
  absl::StatusOr<std::vector<int32_t>> Tokenize(const TokenizeTextRequest& request);
  // The model served, or Unavailable with the reason.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Model();

  // A request takes a place for each of its answers, text to be tokenized takes one.
  Admission& admission() { return admission_; }
  // For front ends' quick work for running streams, which nothing slow may hold up.
  boost::asio::thread_pool& stream_pool() { return stream_pool_; }
  // For their work on a request before it is started.
  boost::asio::thread_pool& preparation_pool() { return preparation_pool_; }

 private:
  friend class InferCallImpl;
  void Ended(const std::shared_ptr<InferCall>& call);

  Trunk* const trunk_;
  ModelWatcher* const watcher_;
  GatewayMetrics* const metrics_;
  const InferenceOptions options_;
  Admission admission_;
  Mutex mutex_;
  CondVar ended_;
  absl::flat_hash_set<std::shared_ptr<InferCall>> live_ GUARDED_BY(mutex_);  // last event still to come
  boost::asio::thread_pool stream_pool_;
  boost::asio::thread_pool preparation_pool_;
};

}  // namespace moepool
