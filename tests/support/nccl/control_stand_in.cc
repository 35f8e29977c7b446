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
  bool closed GUARDED_BY(mutex) = false;
  absl::Status cause GUARDED_BY(mutex);
  struct Way {
    std::deque<FrameBytes> messages;
    size_t bytes = 0;
  };
  Way ways[2] GUARDED_BY(mutex);  // by who reads
};

void End(Link* link, const absl::Status& cause) {
  MutexLock lock(&link->mutex);
  if (link->closed) return;
  link->closed = true;
  link->cause = absl::UnavailableError(cause.message());
  link->changed.NotifyAll();
}

class ControlStandIn final : public NcclControl {
 public:
  ControlStandIn(std::shared_ptr<Link> link, int end) : link_(std::move(link)), end_(end) {}
  ~ControlStandIn() override {
    Close(absl::UnavailableError("the stream was let go"));
    if (thread_.joinable()) thread_.join();
  }

  void Start(Callbacks callbacks) override {
    thread_ = std::thread([this, callbacks = std::move(callbacks)] { Read(callbacks); });
  }

  absl::Status Write(const NcclMessageHeader& header, const FramePieces& payload) override {
    uint8_t* data;
    FrameBytes message = NewFrame(sizeof(header) + payload.bytes(), &data);
    std::memcpy(data, &header, sizeof(header));
    std::copy(payload.head.begin(), payload.head.end(), data + sizeof(header));
    std::copy(payload.tail.begin(), payload.tail.end(), data + sizeof(header) + payload.head.size());
    MutexLock lock(&link_->mutex);
    if (link_->closed) return link_->cause;
    Link::Way& way = link_->ways[1 - end_];
    way.bytes += message.bytes.size();
    way.messages.push_back(std::move(message));
    link_->changed.NotifyAll();
    return absl::OkStatus();
  }

  absl::Status AwaitRoom() override {
    MutexLock lock(&link_->mutex);
    while (!link_->closed && link_->ways[1 - end_].bytes >= kRoomBytes) link_->changed.Wait(&link_->mutex);
    return link_->closed ? link_->cause : absl::OkStatus();
  }

  void Close(const absl::Status& cause) override { End(link_.get(), cause); }

 private:
  void Read(const Callbacks& callbacks) {
    for (;;) {
      FrameBytes message;
      absl::Status cause;
      {
        MutexLock lock(&link_->mutex);
        Link::Way& way = link_->ways[end_];
        while (!link_->closed && way.messages.empty()) link_->changed.Wait(&link_->mutex);
        if (link_->closed) {
          cause = link_->cause;
        } else {
          message = std::move(way.messages.front());
          way.messages.pop_front();
          way.bytes -= message.bytes.size();
          link_->changed.NotifyAll();
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
          [link] { End(link.get(), absl::UnavailableError("the control stream broke")); }};
}

}  // namespace moepool
