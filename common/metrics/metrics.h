// The numbers a process shows, in Prometheus form. Names are moepool_ and vLLM's stem, with units as
// Prometheus wants them.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "prometheus/collectable.h"
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
  // `name` without the prefix "moepool_". The same name and labels give the same metric; a name is of one
  // type.
  prometheus::Counter& Counter(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help, const Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const std::vector<double>& bounds, const Labels& labels = {});
  // Numbers that are read elsewhere, at each scrape. `source` is shown as long as somebody else keeps it
  // alive.
  void AddSource(std::weak_ptr<const prometheus::Collectable> source);
  // The text exposition format, version 0.0.4.
  std::string Expose() const;
  // Everything above, for an exposer.
  std::shared_ptr<prometheus::Collectable> collectable() const;

 private:
  class Sources;
  std::shared_ptr<prometheus::Registry> registry_;
  std::shared_ptr<Sources> sources_;
};

// moepool_build_info{version, process}, which is always 1, and ProcessMetrics. Once.
void AddProcessInfo(Metrics* metrics, const std::string& process);

inline constexpr char kMetricsContentType[] = "text/plain; version=0.0.4; charset=utf-8";

// Upper bounds of histograms: those that OpenTelemetry's conventions for generative AI have for servers,
// with more at the end, and below 10 ms for one token.
const std::vector<double>& RequestSecondsBounds();     // gen_ai.server.request.duration
const std::vector<double>& FirstTokenSecondsBounds();  // gen_ai.server.time_to_first_token
const std::vector<double>& TokenSecondsBounds();       // gen_ai.server.time_per_output_token
const std::vector<double>& TokensBounds();             // gen_ai.client.token.usage, up to 2^20

}  // namespace moepool
