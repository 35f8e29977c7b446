// The engine's and the pool's numbers in Prometheus form, read when they are asked for.
#pragma once

#include <cstdint>
#include <memory>

#include "prometheus/collectable.h"
#include "prometheus/registry.h"
#include "router/engine.h"

namespace moepool {

// What `--max-expert-series` is by default: 128 experts in 64 layers.
inline constexpr int64_t kDefaultMaxExpertSeries = 8192;

// A Collectable that asks the engine at each scrape; nothing is counted twice. `engine` outlives it.
class EngineCollector : public prometheus::Collectable {
 public:
  // Where a model has more experts, over all layers, than max_expert_series, expert_tokens_total is left out.
  explicit EngineCollector(Engine* engine, int64_t max_expert_series = kDefaultMaxExpertSeries)
      : engine_(engine), max_expert_series_(max_expert_series) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  Engine* const engine_;
  const int64_t max_expert_series_;
};

}  // namespace moepool
