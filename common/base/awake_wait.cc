#include "common/base/awake_wait.h"

#include <sched.h>

namespace moepool {
namespace {

constexpr int kPauseTurns = 16;  // of kPausesATurn each, about half a microsecond in all
constexpr int kPausesATurn = 4;

}  // namespace

void PauseOrYield(int turn) {
  if (turn >= kPauseTurns) {
    sched_yield();
    return;
  }
  for (int i = 0; i < kPausesATurn; ++i) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
  }
}

}  // namespace moepool
