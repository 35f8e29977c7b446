// See engine_metrics.h.
#include "router/engine_metrics.h"

#include <limits>
#include <string>
#include <utility>

namespace moepool {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Family(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = std::string("moepool_") + name;
  family.help = help;
  family.type = type;
  return family;
}

void AddValue(MetricFamily* family, double value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (family->type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family->metric.push_back(std::move(metric));
}

MetricFamily Histogram(const char* name, const char* help, const TimeHistogram& times) {
  MetricFamily family = Family(name, help, MetricType::Histogram);
  ClientMetric metric;
  metric.histogram.sample_sum = times.sum_seconds();
  for (int i = 0; i < TimeHistogram::kBuckets; ++i) {
    metric.histogram.sample_count += times.counts()[static_cast<size_t>(i)];
    const bool last = i + 1 == TimeHistogram::kBuckets;
    metric.histogram.bucket.push_back(
        {metric.histogram.sample_count,
         last ? std::numeric_limits<double>::infinity() : TimeHistogram::UpperBound(i)});
  }
  family.metric.push_back(std::move(metric));
  return family;
}

}  // namespace

std::vector<MetricFamily> EngineCollector::Collect() const {
  std::vector<MetricFamily> families;
  const auto add = [&](const char* name, const char* help, MetricType type, double value) {
    families.push_back(Family(name, help, type));
    AddValue(&families.back(), value);
  };
  const auto counter = [&](const char* name, const char* help, auto value) {
    add(name, help, MetricType::Counter, static_cast<double>(value));
  };
  const auto gauge = [&](const char* name, const char* help, auto value) {
    add(name, help, MetricType::Gauge, static_cast<double>(value));
  };
  const EngineStats stats = engine_->Stats();
  gauge("num_sequences_running", "Sequences in the batch.", stats.running);
  gauge("num_sequences_waiting", "Sequences not yet admitted.", stats.waiting);
  const int used = stats.kv_blocks - stats.kv_blocks_free;
  gauge("kv_cache_usage_ratio", "Share of the KV cache's blocks that is taken.",
        stats.kv_blocks > 0 ? static_cast<double>(used) / stats.kv_blocks : 0.0);
  gauge("kv_cache_prefix_ratio",
        "Share of the KV cache's blocks that keep a prefix for later; they count as free.",
        stats.kv_blocks > 0 ? static_cast<double>(stats.kv_blocks_cached) / stats.kv_blocks : 0.0);
  counter("kv_cache_evictions_total", "Blocks of a kept prefix that were given to other content.",
          stats.kv_blocks_evicted);
  counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries);
  counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", stats.prefix_hits);
  counter("num_preemptions_total", "Sequences put back to wait because KV blocks ran out.",
          stats.preemptions);
  counter("engine_steps_total", "Steps of the engine.", stats.steps);
  counter("engine_steps_failed_total", "Steps given up because a worker was lost, and run again.",
          stats.failed_steps);
  counter("engine_step_seconds_total", "Time spent in steps.", stats.step_seconds);
  counter("prefill_rows_total", "Rows of prompts computed.", stats.prefill_rows);
  counter("decode_rows_total", "Rows of generated tokens computed.", stats.decode_rows);
  counter("sequences_finished_total", "Sequences that ended well.", stats.finished);
  counter("sequences_failed_total", "Sequences that ended with an error, cancelled ones included.",
          stats.failed);
  counter("exchange_dispatches_total", "Dispatches sent to workers.", stats.dispatch.dispatches);
  counter("exchange_rows_total", "Rows sent through expert layers.", stats.dispatch.rows);
  counter("exchange_parts_total", "Parts asked of workers.", stats.dispatch.parts);
  counter("exchange_sent_bytes_total", "Bytes of dispatch frames.", stats.dispatch.bytes_out);
  counter("exchange_received_bytes_total", "Bytes of reply frames.", stats.dispatch.bytes_in);
  counter("exchange_losses_total", "Dispatches that ended with the loss of their worker.",
          stats.dispatch.losses);
  counter("exchange_wait_seconds_total", "Time from a layer's last dispatch to its last part.",
          stats.dispatch.wait_seconds);
  counter("exchange_asleep_total",
          "Exchanges whose processes slept where they waited, as staying awake got in the way.",
          stats.dispatch.asleep);
  families.push_back(Histogram("exchange_seconds",
                               "Time of a layer from its first dispatch to its last part.",
                               stats.dispatch.exchange));
  families.push_back(Histogram("exchange_own_seconds",
                               "The same less the longest that a worker or the trunk computed: what the "
                               "exchange costs.",
                               stats.dispatch.exchange_own));

  const absl::StatusOr<PoolInfo> pool = engine_->Pool();
  if (!pool.ok()) return families;
  gauge("pool_ready", "1 where every expert has a holder.", pool->ready ? 1 : 0);
  gauge("placement_epoch", "Epoch of the placement in force.", pool->epoch);
  MetricFamily bytes =
      Family("worker_expert_bytes", "Expert weights that a worker holds.", MetricType::Gauge);
  MetricFamily dispatches =
      Family("worker_dispatches_total", "Dispatches a worker has computed.", MetricType::Counter);
  MetricFamily trip =
      Family("worker_round_trip_seconds", "Moving average of a worker's round trip.", MetricType::Gauge);
  for (const PoolWorkerInfo& worker : pool->workers) {
    const std::vector<ClientMetric::Label> labels = {{"worker", worker.name},
                                                     {"transport", worker.transport}};
    AddValue(&bytes, static_cast<double>(worker.expert_bytes), labels);
    AddValue(&dispatches, static_cast<double>(worker.dispatches), labels);
    AddValue(&trip, worker.round_trip_us / 1e6, labels);
  }
  for (MetricFamily* family : {&bytes, &dispatches, &trip}) families.push_back(std::move(*family));
  return families;
}

}  // namespace moepool
