#include "common/metrics/metrics_endpoint.h"

#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/exposer.h"

namespace moepool {

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const HostPort& address, const Metrics& metrics) {
  HostPort bound = address;
  // The HTTP server behind the exposer takes IP literals only.
  if (bound.host == "localhost") bound.host = "127.0.0.1";
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(bound.ToString(), 1);
    exposer->RegisterCollectable(metrics.collectable());
    const std::vector<int> ports = exposer->GetListeningPorts();
    if (ports.size() != 1) return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address.ToString()));
    bound.port = static_cast<uint16_t>(ports[0]);
    return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(exposer), std::move(bound)));
  } catch (const std::exception& e) {
    return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address.ToString(), ": ", e.what()));
  }
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, HostPort address)
    : exposer_(std::move(exposer)), address_(std::move(address)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

}  // namespace moepool
