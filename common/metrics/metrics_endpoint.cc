#include "common/metrics/metrics_endpoint.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/exposer.h"

namespace moepool {
namespace {

// Connects and hangs up.
void Knock(const HostPort& address) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) return;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd >= 0) {
    (void)connect(fd, found->ai_addr, found->ai_addrlen);
    close(fd);
  }
  freeaddrinfo(found);
}

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(const HostPort& address,
                                                                        const Metrics& metrics) {
  HostPort bound = address;
  // The HTTP server behind the exposer takes IP literals only.
  if (bound.host == "localhost") bound.host = "127.0.0.1";
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(bound.ToString(), 1);
    exposer->RegisterCollectable(metrics.collectable());
    const std::vector<int> ports = exposer->GetListeningPorts();
    if (ports.size() != 1)
      return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", address.ToString()));
    bound.port = static_cast<uint16_t>(ports[0]);
    return std::unique_ptr<MetricsEndpoint>(new MetricsEndpoint(std::move(exposer), std::move(bound)));
  } catch (const std::exception& e) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on ", address.ToString(), ": ", e.what()));
  }
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, HostPort address)
    : exposer_(std::move(exposer)), address_(std::move(address)) {}

// The exposer's server looks every two seconds whether it is to end; a connection makes it look at once.
MetricsEndpoint::~MetricsEndpoint() {
  std::atomic<bool> ended = false;
  std::thread knocking([&] {
    while (!ended.load()) {
      Knock(address_);
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  });
  exposer_ = nullptr;
  ended.store(true);
  knocking.join();
}

}  // namespace moepool
