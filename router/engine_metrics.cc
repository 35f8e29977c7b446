// See engine_metrics.h. docs/metrics.md is the list for people; a test compares the two.
#include "router/engine_metrics.h"

#include <map>
#include <string>

#include "router/metric_families.h"

namespace moepool {
namespace {

using Labels = MetricFamilies::Labels;

// Of the 20 buckets a decade, four are shown where each worker has a histogram of its own.
constexpr int kCoarse = 5;

double Ratio(int part, int whole) { return whole > 0 ? static_cast<double>(part) / whole : 0.0; }

void AddEngine(const EngineStats& stats, MetricFamilies* m) {
  m->Gauge("num_sequences_running", "Sequences in the batch.", stats.running);
  m->Gauge("num_sequences_waiting", "Sequences not yet admitted, or preempted.", stats.waiting);
  m->Gauge("kv_cache_usage_ratio", "Share of the KV cache's blocks that sequences hold.",
           Ratio(stats.kv_blocks - stats.kv_blocks_free, stats.kv_blocks));
  m->Gauge("kv_cache_prefix_ratio",
           "Share of the KV cache's blocks that keep a prefix for later; they count as free.",
           Ratio(stats.kv_blocks_cached, stats.kv_blocks));
  const auto counter = [m](const char* name, const char* help, auto value) {
    m->Counter(name, help, static_cast<double>(value));
  };
  counter("kv_cache_evictions_total", "Blocks of a kept prefix that were given to other content.",
          stats.kv_blocks_evicted);
  counter("prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.", stats.prefix_queries);
  counter("prefix_cache_hits_total", "Prompt tokens found in the prefix cache.", stats.prefix_hits);
  counter("num_preemptions_total", "Sequences put back to wait because KV blocks ran out.",
          stats.preemptions);
  counter("engine_steps_total", "Steps that succeeded.", stats.steps);
  counter("engine_steps_failed_total", "Steps given up because a worker was lost, and run again.",
          stats.failed_steps);
  counter("engine_steps_abandoned_total",
          "Steps given up between two layers, as all their sequences had been cancelled or had run out of "
          "time.",
          stats.abandoned_steps);
  for (size_t i = 0; i < stats.steps_by_micro_batches.size(); ++i) {
    m->Counter("engine_steps_by_micro_batches_total",
               "Steps that succeeded, by the micro-batches in which their rows went through the layers.",
               static_cast<double>(stats.steps_by_micro_batches[i]),
               {{"micro_batches", std::to_string(i + 1)}});
  }
  counter("engine_step_seconds_total", "Time spent in steps that succeeded.", stats.step_seconds);
  counter("constraint_mask_seconds_total", "Time spent finding out which tokens constraints allow.",
          stats.constraint_mask_seconds);
  counter("prefill_rows_total", "Rows of prompts computed.", stats.prefill_rows);
  counter("decode_rows_total", "Rows of generated tokens computed.", stats.decode_rows);
  counter("sequences_finished_total", "Sequences that ended well.", stats.finished);
  counter("sequences_failed_total", "Sequences that ended with an error, cancelled ones included.",
          stats.failed);
}

void AddExchange(const DispatchTotals& totals, MetricFamilies* m) {
  const auto counter = [m](const char* name, const char* help, auto value) {
    m->Counter(name, help, static_cast<double>(value));
  };
  counter("exchange_dispatches_total", "Dispatches sent to workers.", totals.dispatches);
  counter("exchange_device_dispatches_total",
          "Dispatches whose rows went from device memory to another GPU's.", totals.packed);
  counter("exchange_rows_total", "Rows sent through expert layers, once for each layer.", totals.rows);
  counter("exchange_parts_total", "Parts asked of workers.", totals.parts);
  counter("exchange_losses_total", "Dispatches that ended with the loss of their worker.", totals.losses);
  for (size_t i = 0; i < kRetryReasons; ++i) {
    m->Counter(
        "exchange_retries_total",
        "Exchanges given up, so that their step is run again: stale_routes (the worker has released an "
        "expert, as newer routes let it), timeout (no answer by the dispatch's deadline), connection "
        "(lost), refusal (any other answer than what was asked for).",
        static_cast<double>(totals.retries[i]), {{"reason", RetryReasonName(static_cast<RetryReason>(i))}});
  }
  counter("exchange_wait_seconds_total", "Time that the trunk waited for parts.", totals.wait_seconds);
  counter("exchange_asleep_total",
          "Exchanges whose processes slept where they waited, as staying awake got in the way.",
          totals.asleep);
  m->Times("exchange_seconds",
           "Time of a layer, or of a micro-batch in it, from its first dispatch to its last part.",
           totals.exchange, 1);
  m->Times("exchange_own_seconds",
           "The same less the longest that a worker or the trunk computed: what the exchange costs.",
           totals.exchange_own, 1);
  static constexpr int kBounds[] = {1, 2, 3, 4, 6, 8, 12, 16, 24, 32};
  m->Sizes(
      "exchange_parts_per_row",
      "Parts that the experts' sum of a row comes back in, over all workers: 1 where one worker adds all.",
      totals.rows_by_parts, static_cast<double>(totals.parts), kBounds);
}

// Workers by the name that they give themselves, made different where two give the same.
std::vector<std::string> WorkerNames(const std::vector<PoolWorkerInfo>& workers) {
  std::map<std::string, int> times;
  for (const PoolWorkerInfo& worker : workers) ++times[worker.name];
  std::vector<std::string> names;
  for (const PoolWorkerInfo& worker : workers) {
    names.push_back(times[worker.name] == 1 ? worker.name : worker.name + "#" + std::to_string(worker.id));
  }
  return names;
}

void AddWorkers(const std::vector<PoolWorkerInfo>& workers, MetricFamilies* m) {
  const std::vector<std::string> names = WorkerNames(workers);
  const auto each = [&](const auto& add) {
    for (size_t i = 0; i < workers.size(); ++i) add(workers[i], Labels{{"worker", names[i]}});
  };
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Gauge("worker_expert_bytes", "Memory of the expert weights that a worker holds.",
             static_cast<double>(w.expert_bytes), std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Gauge("worker_memory_limit_bytes", "Limit on the memory of a worker's experts; 0: none.",
             static_cast<double>(w.memory_limit_bytes), std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Counter("worker_dispatches_total", "Dispatches that a worker has answered in full.",
               static_cast<double>(w.dispatches), std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Counter("worker_compute_seconds_total", "Time that a worker says it computed dispatches.",
               static_cast<double>(w.compute_us) / 1e6, std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Gauge("worker_busy_ratio", "Part of the last minute in which a worker computed dispatches.",
             w.busy_ratio, std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Counter("exchange_sent_bytes_total", "Bytes of dispatch frames, of dispatches answered in full.",
               static_cast<double>(w.sent_bytes), std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Counter("exchange_received_bytes_total", "Bytes of reply frames, of dispatches answered in full.",
               static_cast<double>(w.received_bytes), std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    labels.push_back({"transport", w.transport});
    m->Gauge(
        "worker_round_trip_seconds",
        "Moving average of a dispatch's round trip: from its encoding until its last part was taken, the "
        "newest weighing a tenth.",
        w.round_trip_us / 1e6, std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Times(
        "worker_dispatch_seconds",
        "Time of the router's to gather and encode the rows of a dispatch and hand them to the transport.",
        w.dispatch, kCoarse, std::move(labels));
  });
  each([m](const PoolWorkerInfo& w, Labels labels) {
    m->Times("worker_combine_seconds",
             "From the moment that the router took a worker's last part until the parts of all workers were "
             "added: what is left to wait for others, who are asked in the order of joining, and the sum.",
             w.combine, kCoarse, std::move(labels));
  });
}

void AddLoad(const PoolInfo& pool, int64_t max_expert_series, MetricFamilies* m) {
  for (int layer = 0; layer < pool.layers; ++layer) {
    m->Gauge("layer_load_ratio",
             "Tokens of the worker with most of them over the workers' mean, in the last minute: 1 where all "
             "have the same, 0 where there were none.",
             pool.load_ratio[static_cast<size_t>(layer)], {{"layer", std::to_string(layer)}});
  }
  if (int64_t{pool.layers} * pool.experts > max_expert_series) return;
  const auto experts = static_cast<size_t>(pool.experts);
  for (int layer = 0; layer < pool.layers; ++layer) {
    for (int expert = 0; expert < pool.experts; ++expert) {
      m->Counter(
          "expert_tokens_total",
          "Tokens that the gate gave to an expert. Left out where the model has more experts, over all "
          "layers, than --max-expert-series.",
          static_cast<double>(
              pool.expert_tokens[static_cast<size_t>(layer) * experts + static_cast<size_t>(expert)]),
          {{"layer", std::to_string(layer)}, {"expert", std::to_string(expert)}});
    }
  }
}

}  // namespace

std::vector<prometheus::MetricFamily> EngineCollector::Collect() const {
  MetricFamilies families;
  const EngineStats stats = engine_->Stats();
  AddEngine(stats, &families);
  AddExchange(stats.dispatch, &families);
  const absl::StatusOr<PoolInfo> pool = engine_->Pool();
  if (!pool.ok()) return families.Take();
  families.Gauge("pool_ready", "1 where every expert has a holder.", pool->ready ? 1 : 0);
  families.Gauge("placement_epoch", "Epoch of the placement in force; 0: none.",
                 static_cast<double>(pool->epoch));
  AddWorkers(pool->workers, &families);
  AddLoad(*pool, max_expert_series_, &families);
  return families.Take();
}

}  // namespace moepool
