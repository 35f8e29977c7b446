#include "common/rpc/readiness_watcher.h"

#include <chrono>
#include <utility>

namespace moepool {

ReadinessWatcher::ReadinessWatcher(RpcServer* server, std::string service, std::function<bool()> ready)
    : server_(server), service_(std::move(service)), ready_(std::move(ready)), thread_([this] { Run(); }) {}

ReadinessWatcher::~ReadinessWatcher() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
  server_->SetReady(service_, false);
}

void ReadinessWatcher::Run() {
  for (;;) {
    server_->SetReady(service_, ready_());
    MutexLock lock(&mutex_);
    if (!stopping_) changed_.WaitFor(&mutex_, std::chrono::milliseconds(200));
    if (stopping_) return;
  }
}

}  // namespace moepool
