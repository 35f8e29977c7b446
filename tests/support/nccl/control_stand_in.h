// A control stream between two threads of one process.
#pragma once

#include <functional>
#include <memory>

#include "common/transport/nccl_control.h"

namespace moepool {

// What one writes the other reads, each in a thread of its own.
struct ControlPair {
  std::unique_ptr<NcclControl> router;
  std::unique_ptr<NcclControl> worker;
  std::function<void()> cut;  // breaks the stream, as long as anyone has it
  // Nothing of the worker's reaches the router from now on, neither words nor an end.
  std::function<void()> silence_worker;
};
ControlPair MakeControlPair();

}  // namespace moepool
