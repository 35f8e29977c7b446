#include "gateway/gateway_metrics.h"

namespace moepool {

GatewayMetrics::GatewayMetrics(Metrics* m)
    : requests_running(
          m->Gauge("num_requests_running", "Requests of which at least one token was generated.")),
      requests_waiting(m->Gauge("num_requests_waiting", "Requests that wait for their first token.")),
      prompt_tokens(m->Counter("prompt_tokens_total", "Tokens of prompts of requests that ended well.")),
      cached_tokens(
          m->Counter("prompt_tokens_cached_total", "Of those, tokens taken from the prefix cache.")),
      generation_tokens(m->Counter("generation_tokens_total", "Tokens generated.")),
      success_stop(
          m->Counter("request_success_total", "Requests that ended well.", {{"finished_reason", "stop"}})),
      success_length(
          m->Counter("request_success_total", "Requests that ended well.", {{"finished_reason", "length"}})),
      failed(m->Counter("request_failure_total", "Requests that did not.", {{"reason", "error"}})),
      cancelled(m->Counter("request_failure_total", "Requests that did not.", {{"reason", "cancelled"}})),
      rejected(m->Counter("request_failure_total", "Requests that did not.", {{"reason", "rejected"}})),
      time_to_first_token(m->Histogram("time_to_first_token_seconds", "From arrival to the first token.",
                                       RequestSecondsBounds())),
      inter_token_latency(
          m->Histogram("inter_token_latency_seconds", "From one token to the next.", TokenSecondsBounds())),
      request_latency(
          m->Histogram("e2e_request_latency_seconds", "From arrival to the end.", RequestSecondsBounds())),
      queue_time(m->Histogram("request_queue_time_seconds", "From arrival at the router to admission.",
                              RequestSecondsBounds())) {}

}  // namespace moepool
