// The memory that router and worker share: a memfd of fixed, sealed size with a ring each way, and the
// descriptors that say whether the other process lives.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/unique_fd.h"
#include "common/transport/shared_memory_ring.h"

namespace moepool {

class SharedMemorySegment {
 public:
  // The router's. ring_bytes: a power of two from 4096 to 2^30.
  static absl::StatusOr<std::unique_ptr<SharedMemorySegment>> Create(uint64_t ring_bytes);
  // The worker's. InvalidArgument where the descriptor is not a sealed memfd of the size that ring_bytes
  // makes.
  static absl::StatusOr<std::unique_ptr<SharedMemorySegment>> Open(UniqueFd fd, uint64_t ring_bytes);
  ~SharedMemorySegment();

  int fd() const { return fd_.get(); }
  uint64_t ring_bytes() const { return ring_bytes_; }
  RingControl* to_worker() const { return reinterpret_cast<RingControl*>(base_); }
  RingControl* to_router() const { return reinterpret_cast<RingControl*>(base_) + 1; }
  uint8_t* to_worker_data() const;
  uint8_t* to_router_data() const;

 private:
  SharedMemorySegment() = default;
  absl::Status Map();

  UniqueFd fd_;
  uint64_t ring_bytes_ = 0;
  uint8_t* base_ = nullptr;
};

// A connected UNIX socket on which nothing is sent any more, and a pidfd where the peer's process is visible
// here.
struct Peer {
  UniqueFd socket;
  UniqueFd pidfd;

  // Does not block.
  bool Alive() const;
  // Tells the peer that this side is gone.
  void HangUp() const;
};

}  // namespace moepool
