// The engine's and the pool's numbers in Prometheus form, read when they are asked for.
#pragma once

#include <memory>

#include "prometheus/collectable.h"
#include "prometheus/registry.h"
#include "router/engine.h"

namespace moepool {

// A Collectable that asks the engine at each scrape; nothing is counted twice. `engine` outlives it.
class EngineCollector : public prometheus::Collectable {
 public:
  explicit EngineCollector(Engine* engine) : engine_(engine) {}
  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  Engine* const engine_;
};

}  // namespace moepool
