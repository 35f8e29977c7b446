// The answer to GET /pool. It is made once for each look at the router, however many pages ask.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "common/base/mutex.h"
#include "gateway/model_watcher.h"

namespace moepool {

// Thread-safe.
class PoolText {
 public:
  explicit PoolText(ModelWatcher* watcher) : watcher_(watcher) {}
  // JSON: PoolJson() and `unix_ms`, when the router was asked. Unavailable: the router does not answer.
  absl::StatusOr<std::shared_ptr<const std::string>> Get();

 private:
  ModelWatcher* const watcher_;
  Mutex mutex_;
  std::shared_ptr<const PoolSight> sight_ GUARDED_BY(mutex_);  // what text_ says
  std::shared_ptr<const std::string> text_ GUARDED_BY(mutex_);
};

}  // namespace moepool
