#include "tests/support/nccl/control_stand_in.h"

#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "common/base/mutex.h"
#include "common/transport/reply_inbox.h"

namespace moepool {
namespace {

constexpr size_t kRoomBytes = 64 << 10;

struct Link {
  Mutex mutex;
  CondVar changed;
  struct End {
    std::deque<FrameBytes> messages;  // that it has not read
    size_t bytes = 0;
    bool silent = false;
    bool closed = false;
    absl::Status cause;
  };
  End ends[2] GUARDED_BY(mutex);
};

void CloseEnd(Link* link, int end, const absl::Status& cause) REQUIRES(link->mutex) {
  if (link->ends[end].closed) return;
  link->ends[end].closed = true;
  link->ends[end].cause = absl::UnavailableError(cause.message());
  link->changed.NotifyAll();
}

class ControlStandIn final : public NcclControl {
 public:
  ControlStandIn(std::shared_ptr<Link> link, int end) : link_(std::move(link)), end_(end) {}
  ~ControlStandIn() override {
    Close(absl::UnavailableError("the stream was let go"));
    if (!thread_.joinable()) return;
    if (thread_.get_id() == std::this_thread::get_id()) {
      thread_.detach();  // a callback let go of us
    } else {
      thread_.join();
    }
  }

  void Start(Callbacks callbacks) override {
    thread_ = std::thread(
        [link = link_, end = end_, callbacks = std::move(callbacks)] { Read(link.get(), end, callbacks); });
  }

  absl::Status Write(const NcclMessageHeader& header, const FramePieces& payload) override {
    uint8_t* data;
    FrameBytes message = NewFrame(sizeof(header) + payload.bytes(), &data);
    std::memcpy(data, &header, sizeof(header));
    std::copy(payload.head.begin(), payload.head.end(), data + sizeof(header));
    std::copy(payload.tail.begin(), payload.tail.end(), data + sizeof(header) + payload.head.size());
    MutexLock lock(&link_->mutex);
    if (link_->ends[end_].closed) return link_->ends[end_].cause;
    if (link_->ends[end_].silent) return absl::OkStatus();
    Link::End& peer = link_->ends[1 - end_];
    peer.bytes += message.bytes.size();
    peer.messages.push_back(std::move(message));
    link_->changed.NotifyAll();
    return absl::OkStatus();
  }

  absl::Status AwaitRoom() override {
    MutexLock lock(&link_->mutex);
    const Link::End& own = link_->ends[end_];
    while (!own.closed && link_->ends[1 - end_].bytes >= kRoomBytes) link_->changed.Wait(&link_->mutex);
    return own.closed ? own.cause : absl::OkStatus();
  }

  void Close(const absl::Status& cause) override {
    MutexLock lock(&link_->mutex);
    CloseEnd(link_.get(), end_, cause);
    if (!link_->ends[end_].silent) CloseEnd(link_.get(), 1 - end_, cause);
  }

 private:
  static void Read(Link* link, int end, const Callbacks& callbacks) {
    for (;;) {
      FrameBytes message;
      absl::Status cause;
      {
        MutexLock lock(&link->mutex);
        Link::End& own = link->ends[end];
        while (!own.closed && own.messages.empty()) link->changed.Wait(&link->mutex);
        if (own.closed) {
          cause = own.cause;
        } else {
          message = std::move(own.messages.front());
          own.messages.pop_front();
          own.bytes -= message.bytes.size();
          link->changed.NotifyAll();
        }
      }
      if (!cause.ok()) return callbacks.lost(cause);
      callbacks.message(std::move(message));
    }
  }

  const std::shared_ptr<Link> link_;
  const int end_;
  std::thread thread_;
};

}  // namespace

ControlPair MakeControlPair() {
  auto link = std::make_shared<Link>();
  return {std::make_unique<ControlStandIn>(link, 0), std::make_unique<ControlStandIn>(link, 1),
          [link] {
            MutexLock lock(&link->mutex);
            for (int end = 0; end < 2; ++end) {
              CloseEnd(link.get(), end, absl::UnavailableError("the control stream broke"));
            }
          },
          [link] {
            MutexLock lock(&link->mutex);
            link->ends[1].silent = true;
          }};
}

}  // namespace moepool
