// See metric_families.h.
#include "router/metric_families.h"

#include <limits>

namespace moepool {

using prometheus::ClientMetric;
using prometheus::MetricType;

ClientMetric* MetricFamilies::Add(const char* name, const char* help, MetricType type, Labels labels) {
  const std::string full = std::string("moepool_") + name;
  if (families_.empty() || families_.back().name != full) families_.push_back({full, help, type, {}});
  ClientMetric& metric = families_.back().metric.emplace_back();
  metric.label = std::move(labels);
  return &metric;
}

void MetricFamilies::Counter(const char* name, const char* help, double value, Labels labels) {
  Add(name, help, MetricType::Counter, std::move(labels))->counter.value = value;
}

void MetricFamilies::Gauge(const char* name, const char* help, double value, Labels labels) {
  Add(name, help, MetricType::Gauge, std::move(labels))->gauge.value = value;
}

void MetricFamilies::Times(const char* name, const char* help, const TimeHistogram& times, int stride,
                           Labels labels) {
  ClientMetric::Histogram& histogram = Add(name, help, MetricType::Histogram, std::move(labels))->histogram;
  histogram.sample_sum = times.sum_seconds();
  for (int i = 0; i < TimeHistogram::kBuckets; ++i) {
    histogram.sample_count += times.counts()[static_cast<size_t>(i)];
    const bool last = i + 1 == TimeHistogram::kBuckets;
    if (last || i % stride == 0) {
      histogram.bucket.push_back({histogram.sample_count, last ? std::numeric_limits<double>::infinity()
                                                               : TimeHistogram::UpperBound(i)});
    }
  }
}

void MetricFamilies::Sizes(const char* name, const char* help, std::span<const uint64_t> counts, double sum,
                           std::span<const int> bounds) {
  ClientMetric::Histogram& histogram = Add(name, help, MetricType::Histogram, {})->histogram;
  histogram.sample_sum = sum;
  size_t bound = 0;
  for (size_t size = 0; size < counts.size(); ++size) {
    histogram.sample_count += counts[size];
    if (bound < bounds.size() && size == static_cast<size_t>(bounds[bound])) {
      histogram.bucket.push_back({histogram.sample_count, static_cast<double>(bounds[bound])});
      ++bound;
    }
  }
  histogram.bucket.push_back({histogram.sample_count, std::numeric_limits<double>::infinity()});
}

}  // namespace moepool
