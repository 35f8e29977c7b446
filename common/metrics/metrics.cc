#include "common/metrics/metrics.h"

#include "prometheus/text_serializer.h"

namespace moepool {

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildCounter().Name("moepool_" + name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildGauge().Name("moepool_" + name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& bounds, const Labels& labels) {
  return prometheus::BuildHistogram().Name("moepool_" + name).Help(help).Register(*registry_).Add(labels, bounds);
}

std::string Metrics::Expose() const { return prometheus::TextSerializer().Serialize(registry_->Collect()); }

const std::vector<double>& RequestSecondsBounds() {
  static const auto* const bounds = new std::vector<double>{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
                                                            1,     2.5,   5,    10,    30,   60,  180,  600};
  return *bounds;
}

const std::vector<double>& TokenSecondsBounds() {
  static const auto* const bounds = new std::vector<double>{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                                            0.05,   0.1,     0.25,   0.5,   1,      2.5,   10};
  return *bounds;
}

}  // namespace moepool
