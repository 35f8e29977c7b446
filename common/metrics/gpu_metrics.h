// moepool_gpu_…: the GPU that a process computes on, read when somebody asks. docs/metrics.md has the list.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "common/metrics/gpu_reader.h"
#include "common/metrics/metrics.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"

namespace moepool {

// Each with the label `gpu`, the UUID. What the driver does not tell is left out.
std::vector<prometheus::MetricFamily> GpuFamilies(const GpuReading& reading);

class GpuMetrics : public prometheus::Collectable {
 public:
  explicit GpuMetrics(std::shared_ptr<GpuReader> reader) : reader_(std::move(reader)) {}
  std::vector<prometheus::MetricFamily> Collect() const override { return GpuFamilies(reader_->Read()); }

 private:
  const std::shared_ptr<GpuReader> reader_;
};

// Shown as long as the caller keeps what is returned. Null where `reader` is.
std::shared_ptr<GpuMetrics> AddGpuMetrics(std::shared_ptr<GpuReader> reader, Metrics* metrics);

}  // namespace moepool
