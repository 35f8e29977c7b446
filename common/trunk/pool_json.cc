#include "common/trunk/pool_json.h"

namespace moepool {
namespace {

using nlohmann::ordered_json;

// What is not known is left out.
ordered_json GpuJson(const GpuReading& gpu) {
  ordered_json json = {{"name", gpu.name}, {"uuid", gpu.uuid}};
  if (gpu.memory_used_bytes.has_value()) json["memory_used_bytes"] = *gpu.memory_used_bytes;
  if (gpu.memory_total_bytes.has_value()) json["memory_total_bytes"] = *gpu.memory_total_bytes;
  if (gpu.utilization_ratio.has_value()) json["utilization_ratio"] = *gpu.utilization_ratio;
  if (gpu.temperature_celsius.has_value()) json["temperature_celsius"] = *gpu.temperature_celsius;
  if (gpu.power_watts.has_value()) json["power_watts"] = *gpu.power_watts;
  return json;
}

ordered_json WorkerJson(const PoolWorkerInfo& worker) {
  ordered_json json = {{"id", worker.id},
                       {"name", worker.name},
                       {"state", worker.state},
                       {"transport", worker.transport},
                       {"backend", worker.backend},
                       {"memory_limit_bytes", worker.memory_limit_bytes},
                       {"expert_bytes", worker.expert_bytes},
                       {"experts_held", worker.experts_held},
                       {"experts", worker.experts},
                       {"dispatches", worker.dispatches},
                       {"round_trip_us", worker.round_trip_us},
                       {"busy_ratio", worker.busy_ratio},
                       {"rows", worker.rows},
                       {"dispatch_us", worker.dispatch_us},
                       {"combine_us", worker.combine_us},
                       {"compute_us", worker.compute_us},
                       {"sent_bytes", worker.sent_bytes},
                       {"received_bytes", worker.received_bytes}};
  if (worker.gpu.has_value()) json["gpu"] = GpuJson(*worker.gpu);
  return json;
}

}  // namespace

ordered_json PoolJson(const PoolInfo& pool) {
  ordered_json workers = ordered_json::array();
  for (const PoolWorkerInfo& worker : pool.workers) workers.push_back(WorkerJson(worker));
  ordered_json json = {{"model", pool.model},
                       {"ready", pool.ready},
                       {"epoch", pool.epoch},
                       {"waiting_for", pool.waiting_for},
                       {"running", pool.running},
                       {"waiting", pool.waiting},
                       {"kv_blocks", pool.kv_blocks},
                       {"kv_blocks_free", pool.kv_blocks_free},
                       {"totals",
                        {{"steps", pool.totals.steps},
                         {"prefill_rows", pool.totals.prefill_rows},
                         {"decode_rows", pool.totals.decode_rows}}},
                       {"workers", std::move(workers)},
                       {"layers", pool.layers},
                       {"experts", pool.experts},
                       {"expert_tokens", pool.expert_tokens},
                       {"expert_tokens_last_minute", pool.expert_tokens_last_minute},
                       {"load_ratio", pool.load_ratio}};
  if (pool.gpu.has_value()) json["gpu"] = GpuJson(*pool.gpu);
  return json;
}

}  // namespace moepool
