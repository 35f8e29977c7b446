// /metrics over HTTP for processes that serve no other HTTP: routers and expert workers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/config.h"
#include "common/metrics/metrics.h"

namespace prometheus {
class Exposer;
}

namespace moepool {

class MetricsEndpoint {
 public:
  // Serves `metrics` until destroyed. Unavailable names the address that cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const HostPort& address,
                                                                const Metrics& metrics);
  ~MetricsEndpoint();
  const HostPort& address() const { return address_; }  // the real port

 private:
  MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, HostPort address);
  std::unique_ptr<prometheus::Exposer> exposer_;
  HostPort address_;
};

}  // namespace moepool
