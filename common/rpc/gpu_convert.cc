#include "common/rpc/gpu_convert.h"

#include <optional>

namespace moepool {
namespace {

constexpr size_t kNameBytes = 96;  // NVML's own limit

// NaN is in no range.
std::optional<double> Within(double low, double value, double high) {
  if (value >= low && value <= high) return value;
  return std::nullopt;
}

}  // namespace

void ToProto(const GpuReading& reading, gpu::v1::Gpu* proto) {
  proto->set_name(reading.name);
  proto->set_uuid(reading.uuid);
  if (reading.memory_used_bytes.has_value()) proto->set_memory_used_bytes(*reading.memory_used_bytes);
  if (reading.memory_total_bytes.has_value()) proto->set_memory_total_bytes(*reading.memory_total_bytes);
  if (reading.utilization_ratio.has_value()) proto->set_utilization_ratio(*reading.utilization_ratio);
  if (reading.temperature_celsius.has_value()) proto->set_temperature_celsius(*reading.temperature_celsius);
  if (reading.power_watts.has_value()) proto->set_power_watts(*reading.power_watts);
}

GpuReading FromProto(const gpu::v1::Gpu& proto) {
  GpuReading reading;
  reading.name = proto.name().substr(0, kNameBytes);
  reading.uuid = proto.uuid().substr(0, kNameBytes);
  if (proto.has_memory_used_bytes()) reading.memory_used_bytes = proto.memory_used_bytes();
  if (proto.has_memory_total_bytes()) reading.memory_total_bytes = proto.memory_total_bytes();
  if (proto.has_utilization_ratio()) reading.utilization_ratio = Within(0, proto.utilization_ratio(), 1);
  if (proto.has_temperature_celsius()) {
    reading.temperature_celsius = Within(-273.15, proto.temperature_celsius(), 1000);
  }
  if (proto.has_power_watts()) reading.power_watts = Within(0, proto.power_watts(), 1e6);
  return reading;
}

}  // namespace moepool
