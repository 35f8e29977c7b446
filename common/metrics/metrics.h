// The numbers a process shows, in Prometheus form. Names are moepool_ and vLLM's stem, with units as Prometheus wants them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace moepool {

// Thread-safe; so are the metrics it hands out, which live as long as it does.
class Metrics {
 public:
  using Labels = std::map<std::string, std::string>;

  Metrics();
  // `name` without the prefix "moepool_". The same name and labels give the same metric; a name is of one type.
  prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help, const std::vector<double>& bounds,
                                   const Labels& labels = {});
  // The text exposition format, version 0.0.4.
  std::string Expose() const;
  const std::shared_ptr<prometheus::Registry>& registry() const { return registry_; }

 private:
  std::shared_ptr<prometheus::Registry> registry_;
};

inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// Upper bounds in seconds that suit a request (1 ms to 10 min) and one token (0.1 ms to 10 s).
const std::vector<double>& RequestSecondsBounds();
const std::vector<double>& TokenSecondsBounds();

}  // namespace moepool
