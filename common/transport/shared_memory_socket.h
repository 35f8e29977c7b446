// How a shared-memory carrier comes to be: the worker dials a UNIX socket, each side checks that the other
// has the same user id, the worker names its session, and the router passes the segment. The socket has an
// abstract name; containers, which see only those of their own network namespace, share a directory for it.
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

// The router's. An abstract name belongs to a network namespace and vanishes with the process; a file is
// removed by the destructor, or by the next router that listens in the directory.
class SharedMemorySocket {
 public:
  struct Callbacks {
    // Whether a worker with this session is expected.
    std::function<bool(const std::string& session)> expected;
    std::function<void(const std::string& session, SharedMemoryConnection connection)> connected;
  };
  // Callbacks run in a thread of the socket's. `directory` empty: an abstract name.
  static absl::StatusOr<std::unique_ptr<SharedMemorySocket>> Listen(uint64_t ring_bytes, Callbacks callbacks,
                                                                    const std::string& directory = "");
  ~SharedMemorySocket();
  const std::string& name() const { return name_; }  // without the leading zero byte or the directory

 private:
  SharedMemorySocket() = default;
  void Loop();
  void Handshake(UniqueFd socket);

  uint64_t ring_bytes_ = 0;
  Callbacks callbacks_;
  std::string name_;
  std::string path_;  // of the socket's file; empty: abstract
  UniqueFd listener_;
  UniqueFd stop_;
  std::thread thread_;
};

// The worker's. `directory` is the router's under whatever path it has here. Unavailable where the socket
// cannot be reached from here; PermissionDenied where the user ids differ or the session is not expected;
// InvalidArgument where the name is not one of the directory's; DeadlineExceeded.
absl::StatusOr<SharedMemoryConnection> DialSharedMemory(const std::string& name, const std::string& session,
                                                        absl::Duration limit,
                                                        const std::string& directory = "");

}  // namespace moepool
