// Families of metrics made at a scrape from numbers that are kept elsewhere.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/time_histogram.h"
#include "prometheus/metric_family.h"

namespace moepool {

// Collects families, in the order in which they are first named.
class MetricFamilies {
 public:
  using Labels = std::vector<prometheus::ClientMetric::Label>;

  // `name` without the prefix "moepool_". A sample each; the same name adds to its family, which is the last
  // one named.
  void Counter(const char* name, const char* help, double value, Labels labels = {});
  void Gauge(const char* name, const char* help, double value, Labels labels = {});
  // Every `stride`-th bound of the histogram; its last one, which is the whole second, is always among them.
  void Times(const char* name, const char* help, const TimeHistogram& times, int stride, Labels labels = {});
  // counts[i] things had the size i; those of the last had that or more.
  void Sizes(const char* name, const char* help, std::span<const uint64_t> counts, double sum,
             std::span<const int> bounds);

  std::vector<prometheus::MetricFamily> Take() { return std::move(families_); }

 private:
  prometheus::ClientMetric* Add(const char* name, const char* help, prometheus::MetricType type,
                                Labels labels);
  std::vector<prometheus::MetricFamily> families_;
};

}  // namespace moepool
