// The server's side of a stream of messages that come at their own pace.
#pragma once

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "common/base/mutex.h"
#include "common/rpc/rpc_status.h"
#include "grpcpp/support/server_callback.h"

namespace moepool {

// One message is written at a time; what comes meanwhile is the derived class's to gather. The stream ends
// after what had gathered when End was called. Owns itself from Open to OnDone. Thread-safe; the work behind
// the stream keeps a shared pointer to this.
template <typename Message>
class StreamReactor : public grpc::ServerWriteReactor<Message>,
                      public std::enable_shared_from_this<StreamReactor<Message>> {
 public:
  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) OnLeft();
    WriteOrFinish(ok);
  }
  void OnCancel() override {
    MutexLock lock(&mutex_);
    OnLeft();
  }
  void OnDone() override {
    Release();
    self_.reset();
  }

 protected:
  // Before anything that may end the stream.
  void Open() { self_ = this->shared_from_this(); }
  // Moves what has gathered into current_; false where nothing has.
  virtual bool Take() REQUIRES(mutex_) = 0;
  // The client is gone; the work is to come to its End() soon.
  virtual void OnLeft() REQUIRES(mutex_) = 0;
  // Lets go of the work. On gRPC's own thread and not under the mutex, which the work may be waiting for.
  virtual void Release() {}

  // Something has gathered.
  void Flush() REQUIRES(mutex_) {
    if (!writing_) WriteOrFinish(true);
  }
  // Nothing more will. Once.
  void End(absl::Status status) REQUIRES(mutex_) {
    over_ = true;
    status_ = std::move(status);
    Flush();
  }

  Mutex mutex_;
  Message current_;  // being written

 private:
  void WriteOrFinish(bool ok) REQUIRES(mutex_) {
    if (ok && Take()) {
      writing_ = true;
      this->StartWrite(&current_);
    } else if (over_ && !std::exchange(finished_, true)) {
      this->Finish(ToGrpc(status_));
    }
  }

  bool writing_ GUARDED_BY(mutex_) = false;
  bool over_ GUARDED_BY(mutex_) = false;
  bool finished_ GUARDED_BY(mutex_) = false;
  absl::Status status_ GUARDED_BY(mutex_);
  std::shared_ptr<StreamReactor> self_;
};

}  // namespace moepool
