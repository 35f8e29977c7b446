// How a shared-memory carrier comes to be: the worker dials an abstract UNIX socket, each side checks that
// the other has the same user id, the worker names its session, and the router passes the segment.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/transport/shared_memory_segment.h"

namespace moepool {

struct SharedMemoryConnection {
  std::unique_ptr<SharedMemorySegment> segment;
  Peer peer;
};

// The router's. An abstract name belongs to a network namespace and vanishes with the process.
class SharedMemorySocket {
 public:
  struct Callbacks {
    // Whether a worker with this session is expected.
    std::function<bool(const std::string& session)> expected;
    std::function<void(const std::string& session, SharedMemoryConnection connection)> connected;
  };
  // Callbacks run in a thread of the socket's.
  static absl::StatusOr<std::unique_ptr<SharedMemorySocket>> Listen(uint64_t ring_bytes, Callbacks callbacks);
  ~SharedMemorySocket();
  const std::string& name() const { return name_; }  // without the leading zero byte

 private:
  SharedMemorySocket() = default;
  void Loop();
  void Handshake(UniqueFd socket);

  uint64_t ring_bytes_ = 0;
  Callbacks callbacks_;
  std::string name_;
  UniqueFd listener_;
  UniqueFd stop_;
  std::thread thread_;
};

// The worker's. Unavailable where the socket cannot be reached from here; PermissionDenied where the user ids
// differ or the session is not expected; DeadlineExceeded.
absl::StatusOr<SharedMemoryConnection> DialSharedMemory(const std::string& name, const std::string& session,
                                                        absl::Duration limit);

}  // namespace moepool
