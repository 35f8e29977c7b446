#include "common/metrics/metrics.h"

#include <utility>

#include "common/base/mutex.h"
#include "common/metrics/process_metrics.h"
#include "prometheus/text_serializer.h"

namespace moepool {

// The registry first, then what was added.
class Metrics::Sources : public prometheus::Collectable {
 public:
  void Add(std::weak_ptr<const prometheus::Collectable> source) {
    MutexLock lock(&mutex_);
    sources_.push_back(std::move(source));
  }
  std::vector<prometheus::MetricFamily> Collect() const override {
    std::vector<std::weak_ptr<const prometheus::Collectable>> sources;
    {
      MutexLock lock(&mutex_);
      sources = sources_;
    }
    std::vector<prometheus::MetricFamily> families;
    for (const auto& weak : sources) {
      const auto source = weak.lock();
      if (source == nullptr) continue;
      for (prometheus::MetricFamily& family : source->Collect()) families.push_back(std::move(family));
    }
    return families;
  }

 private:
  mutable Mutex mutex_;
  std::vector<std::weak_ptr<const prometheus::Collectable>> sources_ GUARDED_BY(mutex_);
};

Metrics::Metrics()
    : registry_(std::make_shared<prometheus::Registry>()), sources_(std::make_shared<Sources>()) {
  sources_->Add(registry_);
}

void Metrics::AddSource(std::weak_ptr<const prometheus::Collectable> source) {
  sources_->Add(std::move(source));
}

std::shared_ptr<prometheus::Collectable> Metrics::collectable() const { return sources_; }

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const Labels& labels) {
  return prometheus::BuildCounter().Name("moepool_" + name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help, const Labels& labels) {
  return prometheus::BuildGauge().Name("moepool_" + name).Help(help).Register(*registry_).Add(labels);
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& bounds, const Labels& labels) {
  return prometheus::BuildHistogram()
      .Name("moepool_" + name)
      .Help(help)
      .Register(*registry_)
      .Add(labels, bounds);
}

void AddProcessInfo(Metrics* metrics, const std::string& process) {
  metrics
      ->Gauge("build_info", "Always 1: the version, and which process of moepool this is.",
              {{"version", MOEPOOL_VERSION}, {"process", process}})
      .Set(1);
  static const auto* const of_process =
      new std::shared_ptr<const ProcessMetrics>(std::make_shared<ProcessMetrics>());
  metrics->AddSource(*of_process);
}

std::string Metrics::Expose() const { return prometheus::TextSerializer().Serialize(sources_->Collect()); }

const std::vector<double>& RequestSecondsBounds() {
  static const auto* const bounds =
      new std::vector<double>{0.01, 0.02,  0.04,  0.08,  0.16,  0.32,   0.64,   1.28,  2.56,
                              5.12, 10.24, 20.48, 40.96, 81.92, 163.84, 327.68, 655.36};
  return *bounds;
}

const std::vector<double>& FirstTokenSecondsBounds() {
  static const auto* const bounds = new std::vector<double>{
      0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160};
  return *bounds;
}

const std::vector<double>& TokenSecondsBounds() {
  static const auto* const bounds = new std::vector<double>{
      0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10};
  return *bounds;
}

const std::vector<double>& TokensBounds() {
  static const auto* const bounds =
      new std::vector<double>{1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576};
  return *bounds;
}

}  // namespace moepool
