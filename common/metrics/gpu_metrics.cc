#include "common/metrics/gpu_metrics.h"

#include <optional>

namespace moepool {

std::vector<prometheus::MetricFamily> GpuFamilies(const GpuReading& reading) {
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](const char* name, const char* help, std::optional<double> value,
                       std::vector<prometheus::ClientMetric::Label> labels = {}) {
    if (!value.has_value()) return;
    prometheus::MetricFamily& family = families.emplace_back();
    family.name = name;
    family.help = help;
    family.type = prometheus::MetricType::Gauge;
    prometheus::ClientMetric& metric = family.metric.emplace_back();
    metric.label = std::move(labels);
    metric.label.insert(metric.label.begin(), {"gpu", reading.uuid});
    metric.gauge.value = *value;
  };
  const auto bytes = [](std::optional<uint64_t> value) -> std::optional<double> {
    if (!value.has_value()) return std::nullopt;
    return static_cast<double>(*value);
  };
  add("moepool_gpu_info", "The GPU that the process computes on; always 1.", 1, {{"name", reading.name}});
  add("moepool_gpu_memory_used_bytes", "Memory of the GPU in use, by other processes too.",
      bytes(reading.memory_used_bytes));
  add("moepool_gpu_memory_total_bytes", "Memory of the GPU.", bytes(reading.memory_total_bytes));
  add("moepool_gpu_utilization_ratio",
      "Part of the driver's last sampling period in which the GPU computed, for whomever.",
      reading.utilization_ratio);
  add("moepool_gpu_temperature_celsius", "Temperature of the GPU's core.", reading.temperature_celsius);
  add("moepool_gpu_power_watts", "Power that the GPU draws.", reading.power_watts);
  return families;
}

std::shared_ptr<GpuMetrics> AddGpuMetrics(std::shared_ptr<GpuReader> reader, Metrics* metrics) {
  if (reader == nullptr) return nullptr;
  auto shown = std::make_shared<GpuMetrics>(std::move(reader));
  metrics->AddSource(shown);
  return shown;
}

}  // namespace moepool
