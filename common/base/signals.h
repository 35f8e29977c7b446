// SIGTERM and SIGINT ask a process to drain; a second one ends it at once.
#pragma once

#include <functional>
#include <thread>

namespace moepool {

// One at a time in a process. Ignores SIGPIPE: a peer that is gone is an error of the write, not of the
// process.
class SignalWatcher {
 public:
  // `on_drain` runs once, on a thread of the watcher's, at the first SIGTERM or SIGINT; the second one exits
  // with 128 + its number without waiting for anything.
  explicit SignalWatcher(std::function<void()> on_drain);
  // Restores the handlers and waits for `on_drain` where it runs.
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  std::thread thread_;
};

}  // namespace moepool
