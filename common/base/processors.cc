#include "common/base/processors.h"

#include <sched.h>

#include <algorithm>
#include <thread>

namespace moepool {

std::vector<int> AllowedProcessors() {
  std::vector<int> processors;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) processors.push_back(i);
  }
  return processors;
}

int ProcessorCount() {
  const int allowed = static_cast<int>(AllowedProcessors().size());
  return allowed > 0 ? allowed : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

bool AllProcessorsAllowed() {
  // Of the machine, whatever this process may run on.
  return AllowedProcessors().size() >= static_cast<size_t>(std::thread::hardware_concurrency());
}

}  // namespace moepool
