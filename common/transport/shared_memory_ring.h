// One direction of a shared-memory carrier: a ring of bytes with one producer and one consumer in different
// processes, and frames over it in records. The other side is not trusted: its positions and lengths are read
// once, checked against the ring, and only then used; a frame is copied out before anyone looks inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/awake_wait.h"
#include "common/transport/expert_transport.h"

namespace moepool {

// In shared memory. Each side writes its own position and never reads it back. Zeroed memory is an empty
// ring.
struct RingControl {
  alignas(64) std::atomic<uint64_t> head;  // bytes ever written
  std::atomic<uint32_t> written;           // futex: changes after head
  alignas(64) std::atomic<uint64_t> tail;  // bytes ever consumed
  std::atomic<uint32_t> consumed;          // futex: changes after tail
  alignas(64) std::atomic<uint32_t> consumer_sleeps;
  alignas(64) std::atomic<uint32_t> producer_sleeps;
};
static_assert(sizeof(RingControl) == 256);
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free);

// A record: this header, then `bytes` of a frame, padded to 16.
struct RingRecord {
  uint32_t bytes;
  uint32_t begins;       // 1: the first of its frame; an unfinished frame before it was abandoned
  uint64_t frame_bytes;  // of the whole frame
};
static_assert(sizeof(RingRecord) == 16);

// Wakes whoever sleeps on either end of the ring, for a look at other conditions than the ring's.
void WakeRing(RingControl* control);

// `data` has `capacity` bytes, a power of two of at least 4096. One thread at a time.
class RingSender {
 public:
  RingSender(RingControl* control, uint8_t* data, uint64_t capacity)
      : control_(control), data_(data), capacity_(capacity) {}
  // Writes the frame, in pieces where it is larger than the ring. `idle` is called about every `slice` of
  // waiting for space, and may end it with a status. DeadlineExceeded: the frame was not sent, and the ring
  // stays usable. DataLoss: the consumer's position is impossible.
  absl::Status Send(const FramePieces& frame, absl::Time deadline, absl::Duration slice,
                    const std::function<absl::Status()>& idle);

 private:
  absl::Status WaitForSpace(uint64_t bytes, absl::Time deadline, absl::Duration slice,
                            const std::function<absl::Status()>& idle);
  // Writes a record of `bytes` from byte `begin` of the frame on.
  void WriteRecord(const FramePieces& frame, uint64_t begin, uint64_t bytes);
  void Put(uint64_t position, std::span<const uint8_t> bytes);

  RingControl* const control_;
  uint8_t* const data_;
  const uint64_t capacity_;
  uint64_t head_ = 0;
};

// One thread at a time.
class RingReceiver {
 public:
  RingReceiver(RingControl* control, const uint8_t* data, uint64_t capacity, uint64_t max_frame_bytes)
      : control_(control), data_(data), capacity_(capacity), max_frame_bytes_(max_frame_bytes) {}
  // True where `frame` was set; false where no whole frame is there yet, or the ring's capacity was read
  // without one: a producer that writes as fast as we read must not keep us. DataLoss names the impossible
  // value.
  absl::StatusOr<bool> Poll(FrameBytes* frame);
  // Waits awake for a while, then asleep until something is written or `limit` has passed. After a wait in
  // which nothing came, sleeps at once, until Poll has read something: waits in slices stay awake only once.
  void Wait(absl::Duration limit);
  uint64_t read_bytes() const { return tail_; }  // ever

 private:
  RingControl* const control_;
  const uint8_t* const data_;
  const uint64_t capacity_;
  const uint64_t max_frame_bytes_;
  uint64_t tail_ = 0;
  bool idle_ = false;  // nothing came in the last wait
  FrameBytes partial_;
  uint8_t* partial_data_ = nullptr;
  uint64_t partial_bytes_ = 0;  // of it that have arrived
  const HasPartners has_partners_;
};

}  // namespace moepool
