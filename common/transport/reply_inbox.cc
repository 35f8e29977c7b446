#include "common/transport/reply_inbox.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/transport/unshared_status.h"

namespace moepool {

bool WaitUntil(CondVar* cv, Mutex* mutex, absl::Time deadline) {
  const absl::Duration left = deadline - absl::Now();
  if (left <= absl::ZeroDuration()) return false;
  // Capped, because an infinite duration does not convert; callers test their condition again.
  cv->WaitFor(mutex, absl::ToChronoNanoseconds(std::min(left, absl::Minutes(10))));
  return true;
}

FrameBytes NewFrame(size_t bytes, uint8_t** data) {
  constexpr std::align_val_t kAlign{64};
  auto* memory = static_cast<uint8_t*>(::operator new(std::max<size_t>(bytes, 1), kAlign));
  *data = memory;
  return {{memory, bytes},
          std::shared_ptr<uint8_t>(memory, [](uint8_t* p) { ::operator delete(p, kAlign); })};
}

FrameBytes CopyFrame(const FramePieces& pieces) {
  uint8_t* data;
  FrameBytes frame = NewFrame(pieces.bytes(), &data);
  std::copy(pieces.head.begin(), pieces.head.end(), data);
  std::copy(pieces.tail.begin(), pieces.tail.end(), data + pieces.head.size());
  return frame;
}

absl::Status ReplyInbox::Begin(uint64_t dispatch_id, absl::Time deadline) {
  MutexLock lock(&mutex_);
  for (;;) {
    if (!loss_.ok()) return UnsharedStatus(loss_);
    if (open_.contains(dispatch_id)) {
      return absl::InvalidArgumentError(absl::StrCat("dispatch ", dispatch_id, " is open already"));
    }
    if (open_.size() < static_cast<size_t>(options_.credits)) break;
    if (!WaitUntil(&changed_, &mutex_, deadline)) {
      return absl::DeadlineExceededError(absl::StrCat("dispatch ", dispatch_id, ": all ", options_.credits,
                                                      " credits of the worker stayed used up"));
    }
  }
  open_.try_emplace(dispatch_id);
  return absl::OkStatus();
}

absl::Status ReplyInbox::Deliver(FrameBytes frame) {
  const absl::StatusOr<FrameHeader> header = DecodeHeader(frame.bytes, frame.device.size());
  if (!header.ok()) {
    Fail(absl::Status(header.status().code(), absl::StrCat("malformed reply: ", header.status().message())));
    return status();
  }
  MutexLock lock(&mutex_);
  if (!loss_.ok()) return UnsharedStatus(loss_);
  const auto it = open_.find(header->dispatch_id);
  if (it == open_.end()) {
    ++dropped_;
    return absl::OkStatus();
  }
  if (frame.size() > options_.max_queued_bytes - queued_bytes_) {
    loss_ =
        absl::UnavailableError(absl::StrCat("worker sent more replies than were read: ", queued_bytes_, " + ",
                                            frame.size(), " bytes, limit ", options_.max_queued_bytes));
    changed_.NotifyAll();
    return UnsharedStatus(loss_);
  }
  queued_bytes_ += frame.size();
  it->second.frames.push_back(std::move(frame));
  changed_.NotifyAll();
  return absl::OkStatus();
}

absl::StatusOr<bool> ReplyInbox::TryReceiveLocked(uint64_t dispatch_id, FrameBytes* frame) {
  if (!loss_.ok()) return UnsharedStatus(loss_);
  const auto it = open_.find(dispatch_id);
  if (it == open_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("dispatch ", dispatch_id, " is not open"));
  }
  if (it->second.frames.empty()) return false;
  *frame = std::move(it->second.frames.front());
  it->second.frames.pop_front();
  queued_bytes_ -= frame->size();
  return true;
}

absl::StatusOr<bool> ReplyInbox::TryReceive(uint64_t dispatch_id, FrameBytes* frame) {
  MutexLock lock(&mutex_);
  return TryReceiveLocked(dispatch_id, frame);
}

absl::StatusOr<FrameBytes> ReplyInbox::Receive(uint64_t dispatch_id, absl::Time deadline) {
  MutexLock lock(&mutex_);
  for (;;) {
    FrameBytes frame;
    MOEPOOL_ASSIGN_OR_RETURN(const bool received, TryReceiveLocked(dispatch_id, &frame));
    if (received) return frame;
    if (!WaitUntil(&changed_, &mutex_, deadline)) {
      return absl::DeadlineExceededError(
          absl::StrCat("dispatch ", dispatch_id, ": no reply by the deadline"));
    }
  }
}

void ReplyInbox::Forget(uint64_t dispatch_id) {
  Open gone;  // destroyed after the lock
  MutexLock lock(&mutex_);
  const auto it = open_.find(dispatch_id);
  if (it == open_.end()) return;
  gone = std::move(it->second);
  for (const FrameBytes& frame : gone.frames) queued_bytes_ -= frame.size();
  open_.erase(it);
  changed_.NotifyAll();
}

void ReplyInbox::Fail(const absl::Status& cause) {
  MutexLock lock(&mutex_);
  if (!loss_.ok()) return;
  loss_ = absl::UnavailableError(cause.ok() ? "transport closed" : cause.message());
  changed_.NotifyAll();
}

bool ReplyInbox::lost() const {
  MutexLock lock(&mutex_);
  return !loss_.ok();
}

absl::Status ReplyInbox::status() const {
  MutexLock lock(&mutex_);
  return UnsharedStatus(loss_);
}

uint64_t ReplyInbox::dropped() const {
  MutexLock lock(&mutex_);
  return dropped_;
}

}  // namespace moepool
