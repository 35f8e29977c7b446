// What a gateway counts; names are vLLM's, after moepool_.
#pragma once

#include "common/metrics/metrics.h"

namespace moepool {

struct GatewayMetrics {
  explicit GatewayMetrics(Metrics* metrics);

  prometheus::Gauge& requests_running;  // at least one token out
  prometheus::Gauge& requests_waiting;  // none yet
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& cached_tokens;
  prometheus::Counter& generation_tokens;
  prometheus::Counter& success_stop;
  prometheus::Counter& success_length;
  prometheus::Counter& failed;
  prometheus::Counter& cancelled;
  prometheus::Counter& rejected;
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token_latency;
  prometheus::Histogram& request_latency;
  prometheus::Histogram& queue_time;
};

}  // namespace moepool
