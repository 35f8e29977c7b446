// What the suite needs of a carrier, with one implementation for each: both ends, a handler on the worker's,
// and ways to break it.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/transport/expert_transport.h"
#include "common/transport/reply_inbox.h"

namespace moepool {

class TransportHarness {
 public:
  virtual ~TransportHarness() = default;
  virtual ExpertTransport& router() = 0;
  // The worker goes without a word, as when its process is killed.
  virtual void KillWorker() = 0;
};

struct TransportCase {
  std::string name;
  std::function<std::unique_ptr<TransportHarness>(FrameHandler handler, const TransportOptions& options)>
      make;
  // Whether Send returns before the handler has: false in process.
  bool asynchronous = true;
  // In the place of `make`, where ends of frames stay in device memory, which is the host's.
  std::function<std::unique_ptr<TransportHarness>(DeviceFrameHandler handler)> make_on_device = {};
};

std::vector<TransportCase> CoreTransportCases();

}  // namespace moepool
