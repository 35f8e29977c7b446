// Keeps a gateway's picture of its router: which model, and whether the pool can serve.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/base/mutex.h"
#include "common/trunk/trunk.h"
#include "gateway/served_model.h"

namespace moepool {

struct ModelWatcherOptions {
  absl::Duration poll_interval = absl::Seconds(1);
  absl::Duration not_ready_interval = absl::Milliseconds(100);  // until the router serves
};

struct PoolSight {
  absl::Time time;  // when the router was asked
  PoolInfo pool;
};

// Thread-safe. Owns a thread that polls the trunk; describes the model again after the router was away, and
// keeps the tokenizer where the digest is the same.
class ModelWatcher {
 public:
  // `on_ready` is called from the watcher's thread whenever readiness changes. `trunk` outlives this.
  ModelWatcher(Trunk* trunk, ModelFactory factory, const ModelWatcherOptions& options,
               std::function<void(bool ready)> on_ready);
  ~ModelWatcher();

  // Null until the router has described its model; the last one it described while it is away.
  std::shared_ptr<const ServedModel> Model();
  // Why requests cannot be served, or empty.
  std::string NotReadyReason();
  // The pool as the router last told, at most a poll interval ago; or why it does not tell.
  absl::StatusOr<std::shared_ptr<const PoolSight>> Pool();
  // The router may have changed: look at once.
  void Refresh();

 private:
  void Run();
  // One look at the router; the reason why it is not ready, or empty.
  std::string Look();
  absl::Status Describe();

  Trunk* const trunk_;
  const ModelFactory factory_;
  const ModelWatcherOptions options_;
  const std::function<void(bool)> on_ready_;
  std::string router_name_;  // the thread's own; of model_, as the router says it
  bool described_ = false;   // the thread's own; since the last time the router was away
  uint64_t epoch_ = 0;       // the thread's own

  Mutex mutex_;
  CondVar wake_;
  std::shared_ptr<const ServedModel> model_ GUARDED_BY(mutex_);
  absl::StatusOr<std::shared_ptr<const PoolSight>> sight_ GUARDED_BY(mutex_) =
      absl::UnavailableError("the router has not been reached yet");
  std::string reason_ GUARDED_BY(mutex_) = "the router has not been reached yet";
  bool refresh_ GUARDED_BY(mutex_) = false;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace moepool
