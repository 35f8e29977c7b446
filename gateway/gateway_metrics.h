// What a gateway counts; names are vLLM's, after moepool_. docs/metrics.md is the list for people.
#pragma once

#include "absl/status/status.h"
#include "common/metrics/metrics.h"

namespace moepool {

struct GatewayMetrics {
  explicit GatewayMetrics(Metrics* metrics);

  // Of a request that did not end well, by what ended it.
  prometheus::Counter& Failure(absl::StatusCode code);

  prometheus::Gauge& requests_running;  // at least one token out
  prometheus::Gauge& requests_waiting;  // none yet
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& cached_tokens;
  prometheus::Counter& generation_tokens;
  prometheus::Counter& success_stop;
  prometheus::Counter& success_length;
  prometheus::Counter& success_tool_calls;
  prometheus::Counter& error;
  prometheus::Counter& cancelled;
  prometheus::Counter& invalid;
  prometheus::Counter& rejected;
  prometheus::Counter& deadline;
  prometheus::Counter& unavailable;
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token_latency;
  prometheus::Histogram& request_latency;
  prometheus::Histogram& queue_time;
  prometheus::Histogram& prefill_time;
  prometheus::Histogram& decode_time;
  prometheus::Histogram& request_prompt_tokens;
  prometheus::Histogram& request_generation_tokens;
};

}  // namespace moepool
