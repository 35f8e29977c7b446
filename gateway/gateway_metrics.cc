#include "gateway/gateway_metrics.h"

#include <string>

namespace moepool {
namespace {

prometheus::Counter& Success(Metrics* m, const char* reason) {
  return m->Counter("request_success_total",
                    "Requests that ended well, by how their answers did: stop, length, or tool_calls; length "
                    "where any of several answers did.",
                    {{"finished_reason", reason}});
}

prometheus::Counter& Failed(Metrics* m, const char* reason) {
  return m->Counter(
      "request_failure_total",
      "Requests that did not end well: cancelled (by the client, or it left), invalid, rejected "
      "(too many at once), deadline (passed), unavailable (no router, or experts without a "
      "holder), error (anything else).",
      {{"reason", reason}});
}

}  // namespace

GatewayMetrics::GatewayMetrics(Metrics* m)
    : requests_running(
          m->Gauge("num_requests_running", "Requests of which at least one token was generated.")),
      requests_waiting(m->Gauge("num_requests_waiting", "Requests that wait for their first token.")),
      prompt_tokens(m->Counter("prompt_tokens_total", "Tokens of prompts of requests that ended well.")),
      cached_tokens(
          m->Counter("prompt_tokens_cached_total", "Of those, tokens taken from the prefix cache.")),
      generation_tokens(m->Counter("generation_tokens_total", "Tokens generated.")),
      success_stop(Success(m, "stop")),
      success_length(Success(m, "length")),
      success_tool_calls(Success(m, "tool_calls")),
      error(Failed(m, "error")),
      cancelled(Failed(m, "cancelled")),
      invalid(Failed(m, "invalid")),
      rejected(Failed(m, "rejected")),
      deadline(Failed(m, "deadline")),
      unavailable(Failed(m, "unavailable")),
      time_to_first_token(m->Histogram("time_to_first_token_seconds",
                                       "From a request's arrival to its first token.",
                                       FirstTokenSecondsBounds())),
      inter_token_latency(m->Histogram("inter_token_latency_seconds",
                                       "From one token of an answer to the next; where several come "
                                       "together, their time is shared among them.",
                                       TokenSecondsBounds())),
      request_latency(m->Histogram("e2e_request_latency_seconds",
                                   "From a request's arrival to its end, of requests that ended well.",
                                   RequestSecondsBounds())),
      queue_time(m->Histogram("request_queue_time_seconds",
                              "From a sequence's arrival at the router to its admission to the batch, the "
                              "longest of a request's, of requests that ended well.",
                              FirstTokenSecondsBounds())),
      prefill_time(m->Histogram("request_prefill_time_seconds",
                                "From a sequence's admission to its first token, the longest of a request's, "
                                "of requests that ended well.",
                                FirstTokenSecondsBounds())),
      decode_time(m->Histogram("request_decode_time_seconds",
                               "From a request's first token to its last, of requests that ended well.",
                               RequestSecondsBounds())),
      request_prompt_tokens(m->Histogram("request_prompt_tokens",
                                         "Tokens of a request's prompt, of requests that ended well.",
                                         TokensBounds())),
      request_generation_tokens(m->Histogram(
          "request_generation_tokens",
          "Tokens generated for a request, all its answers together, of requests that ended well.",
          TokensBounds())) {}

prometheus::Counter& GatewayMetrics::Failure(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kCancelled:
      return cancelled;
    case absl::StatusCode::kInvalidArgument:
      return invalid;
    case absl::StatusCode::kResourceExhausted:
      return rejected;
    case absl::StatusCode::kDeadlineExceeded:
      return deadline;
    case absl::StatusCode::kUnavailable:
      return unavailable;
    default:
      return error;
  }
}

}  // namespace moepool
