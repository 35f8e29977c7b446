// Ctrl-C that stops what is under way rather than the program.
#pragma once

#include <functional>
#include <thread>

#include "common/base/mutex.h"

namespace moepool {

// One in a process. While it lives, SIGINT runs what is set, on a thread of its own, and does nothing where
// nothing is; a second SIGINT before the first one's work has been replaced ends the process with 130.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  // Empty: nothing. Once this has returned, what was set before runs no more.
  void Set(std::function<void()> action);

 private:
  void Run();

  Mutex mutex_;
  std::function<void()> action_ GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace moepool
