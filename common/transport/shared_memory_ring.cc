#include "common/transport/shared_memory_ring.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "absl/time/clock.h"
#include "common/base/awake_wait.h"
#include "common/base/status_macros.h"
#include "common/base/str.h"
#include "common/transport/reply_inbox.h"

namespace moepool {
namespace {

constexpr uint64_t kRecordAlign = 16;
constexpr uint64_t kMaxPieceBytes = 256 * 1024;  // lets the consumer copy while the producer does

constexpr uint64_t Padded(uint64_t bytes) { return (bytes + kRecordAlign - 1) & ~(kRecordAlign - 1); }

void FutexWait(std::atomic<uint32_t>* word, uint32_t seen, absl::Duration limit) {
  const timespec timeout = absl::ToTimespec(std::max(limit, absl::ZeroDuration()));
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAIT, seen, &timeout, nullptr, 0);
}

void FutexWake(std::atomic<uint32_t>* word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// Announces a new position. The order of the two accesses, against that of Sleep, is what loses no wake-up.
void Announce(std::atomic<uint32_t>* word, const std::atomic<uint32_t>& sleeps) {
  word->fetch_add(1, std::memory_order_seq_cst);
  if (sleeps.load(std::memory_order_seq_cst) != 0) FutexWake(word);
}

// Waits for `ready`, first awake where `awake` is set, then in one sleep. What `ready` says in the end.
template <typename Ready>
bool WaitThenSleep(std::atomic<uint32_t>* word, std::atomic<uint32_t>* sleeps, bool awake,
                   absl::Duration limit, Ready ready) {
  if (awake && WaitAwake(ready)) return true;
  const uint32_t seen = word->load(std::memory_order_seq_cst);
  sleeps->store(1, std::memory_order_seq_cst);
  if (!ready()) FutexWait(word, seen, limit);
  sleeps->store(0, std::memory_order_seq_cst);
  return ready();
}

}  // namespace

void WakeRing(RingControl* control) {
  for (std::atomic<uint32_t>* word : {&control->written, &control->consumed}) {
    word->fetch_add(1, std::memory_order_seq_cst);
    FutexWake(word);
  }
}

absl::Status RingSender::WaitForSpace(uint64_t bytes, absl::Time deadline, absl::Duration slice,
                                      const std::function<absl::Status()>& idle) {
  bool awake = true;
  for (;;) {
    const uint64_t tail = control_->tail.load(std::memory_order_acquire);
    const uint64_t used = head_ - tail;
    if (used > capacity_) {
      return absl::DataLossError(
          StrCat("ring: the consumer is at ", tail, ", the producer at ", head_, ", capacity ", capacity_));
    }
    if (capacity_ - used >= bytes) return absl::OkStatus();
    MOEPOOL_RETURN_IF_ERROR(idle());
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          StrCat("ring: ", capacity_ - used, " bytes free, ", bytes, " needed"));
    }
    awake = WaitThenSleep(&control_->consumed, &control_->producer_sleeps, awake, std::min(left, slice),
                          [&] { return control_->tail.load(std::memory_order_seq_cst) != tail; });
  }
}

// Bytes may wrap around the ring's end.
void RingSender::Put(uint64_t position, std::span<const uint8_t> bytes) {
  const uint64_t at = position & (capacity_ - 1);
  const uint64_t first = std::min<uint64_t>(bytes.size(), capacity_ - at);
  std::copy_n(bytes.data(), first, data_ + at);
  std::copy_n(bytes.data() + first, bytes.size() - first, data_);
}

void RingSender::WriteRecord(const FramePieces& frame, uint64_t begin, uint64_t bytes) {
  const RingRecord record = {static_cast<uint32_t>(bytes), begin == 0 ? 1u : 0u, frame.bytes()};
  // Positions are multiples of 16, so that a record's header never wraps.
  std::memcpy(data_ + (head_ & (capacity_ - 1)), &record, sizeof(record));
  const uint64_t in_head = frame.head.size() - std::min<uint64_t>(begin, frame.head.size());
  const uint64_t from_head = std::min(bytes, in_head);
  Put(head_ + sizeof(record), frame.head.subspan(frame.head.size() - in_head, from_head));
  if (from_head < bytes) {
    const uint64_t in_tail = begin + from_head - frame.head.size();
    Put(head_ + sizeof(record) + from_head, frame.tail.subspan(in_tail, bytes - from_head));
  }
  head_ += sizeof(record) + Padded(bytes);
  control_->head.store(head_, std::memory_order_release);
  Announce(&control_->written, control_->consumer_sleeps);
}

absl::Status RingSender::Send(const FramePieces& frame, absl::Time deadline, absl::Duration slice,
                              const std::function<absl::Status()>& idle) {
  const uint64_t total = frame.bytes();
  const uint64_t piece = std::min(kMaxPieceBytes, capacity_ / 4);
  const uint64_t pieces = (total + piece - 1) / piece;
  // A frame that fits waits for room for all of it, so that running out of time leaves nothing half written.
  const uint64_t whole = Padded(total) + pieces * sizeof(RingRecord);
  if (whole <= capacity_) MOEPOOL_RETURN_IF_ERROR(WaitForSpace(whole, deadline, slice, idle));
  for (uint64_t done = 0; done < total;) {
    const uint64_t bytes = std::min(piece, total - done);
    MOEPOOL_RETURN_IF_ERROR(WaitForSpace(sizeof(RingRecord) + Padded(bytes), deadline, slice, idle));
    WriteRecord(frame, done, bytes);
    done += bytes;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> RingReceiver::Poll(FrameBytes* frame) {
  const uint64_t begin = tail_;
  while (tail_ - begin < capacity_) {
    const uint64_t head = control_->head.load(std::memory_order_acquire);
    const uint64_t available = head - tail_;
    if (available == 0) return false;
    if (available > capacity_ || available % kRecordAlign != 0) {
      return absl::DataLossError(
          StrCat("ring: the producer is at ", head, ", the consumer at ", tail_, ", capacity ", capacity_));
    }
    RingRecord record;
    std::memcpy(&record, data_ + (tail_ & (capacity_ - 1)), sizeof(record));
    if (record.bytes == 0 || sizeof(record) + Padded(record.bytes) > available) {
      return absl::DataLossError(
          StrCat("ring: record of ", record.bytes, " bytes, ", available, " are written"));
    }
    if (record.begins == 1) {
      if (record.frame_bytes == 0 || record.frame_bytes > max_frame_bytes_) {
        return absl::DataLossError(
            StrCat("ring: frame of ", record.frame_bytes, " bytes, limit ", max_frame_bytes_));
      }
      partial_ = NewFrame(record.frame_bytes, &partial_data_);
      partial_bytes_ = 0;
    } else if (record.begins != 0 || partial_data_ == nullptr) {
      return absl::DataLossError(StrCat("ring: record with mark ", record.begins, " outside a frame"));
    }
    if (record.bytes > partial_.bytes.size() - partial_bytes_) {
      return absl::DataLossError(StrCat("ring: record of ", record.bytes, " bytes, its frame has ",
                                        partial_.bytes.size() - partial_bytes_, " left"));
    }
    const uint64_t at = (tail_ + sizeof(record)) & (capacity_ - 1);
    const uint64_t first = std::min<uint64_t>(record.bytes, capacity_ - at);
    std::memcpy(partial_data_ + partial_bytes_, data_ + at, first);
    std::memcpy(partial_data_ + partial_bytes_ + first, data_, record.bytes - first);
    partial_bytes_ += record.bytes;
    tail_ += sizeof(record) + Padded(record.bytes);
    idle_ = false;
    control_->tail.store(tail_, std::memory_order_release);
    Announce(&control_->consumed, control_->producer_sleeps);
    if (partial_bytes_ < partial_.bytes.size()) continue;
    *frame = std::move(partial_);
    partial_ = {};
    partial_data_ = nullptr;
    return true;
  }
  return false;
}

void RingReceiver::Wait(absl::Duration limit) {
  idle_ = !WaitThenSleep(&control_->written, &control_->consumer_sleeps, !idle_, limit,
                         [&] { return control_->head.load(std::memory_order_seq_cst) != tail_; });
}

}  // namespace moepool
