// The carrier for a router and a worker on one host: a ring each way, no threads of its own. Who receives
// reads the ring, so a reply wakes the thread that waits for it and no other.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "common/transport/expert_transport.h"
#include "common/transport/reply_inbox.h"
#include "common/transport/shared_memory_socket.h"

namespace moepool {

std::unique_ptr<ExpertTransport> MakeSharedMemoryTransport(SharedMemoryConnection connection,
                                                           const TransportOptions& options = {});

// The worker's end.
class SharedMemoryServer {
 public:
  explicit SharedMemoryServer(SharedMemoryConnection connection, const TransportOptions& options = {});
  // Hands each dispatch to `handler`, in this thread, until the router is gone or Stop; returns why.
  absl::Status Serve(const FrameHandler& handler);
  // Thread-safe. Ends Serve, and tells the router.
  void Stop();

 private:
  absl::Status CheckRouter() const;

  const SharedMemoryConnection connection_;
  RingReceiver receiver_;
  RingSender sender_;
  std::atomic<bool> stopped_ = false;
};

}  // namespace moepool
