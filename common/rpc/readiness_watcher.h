// What grpc.health.v1 answers for a service, kept up to date.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "common/base/mutex.h"
#include "common/rpc/rpc_server.h"

namespace moepool {

// Asks five times a second whether `service` is ready; NOT_SERVING once destroyed.
class ReadinessWatcher {
 public:
  // `server` outlives the watcher; `ready` runs on the watcher's thread.
  ReadinessWatcher(RpcServer* server, std::string service, std::function<bool()> ready);
  ~ReadinessWatcher();
  ReadinessWatcher(const ReadinessWatcher&) = delete;
  ReadinessWatcher& operator=(const ReadinessWatcher&) = delete;

 private:
  void Run();

  RpcServer* const server_;
  const std::string service_;
  const std::function<bool()> ready_;
  Mutex mutex_;
  CondVar changed_;
  bool stopping_ GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace moepool
