// What one GPU is and does at a moment, as its driver tells it. What the driver does not tell is absent.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace moepool {

struct GpuReading {
  std::string name;  // "NVIDIA GeForce RTX 3090"
  std::string uuid;  // "GPU-8f6b…"
  // Of the whole GPU: what other processes take is counted too.
  std::optional<uint64_t> memory_used_bytes;
  std::optional<uint64_t> memory_total_bytes;
  std::optional<double> utilization_ratio;  // part of the driver's last sampling period in which it computed
  std::optional<double> temperature_celsius;
  std::optional<double> power_watts;
};

}  // namespace moepool
