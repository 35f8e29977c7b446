#include "common/base/signals.h"

#include <unistd.h>

#include <csignal>
#include <cstdlib>

#include "common/base/mutex.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

TEST(SignalsTest, FirstSignalDrains) {
  for (const int number : {SIGTERM, SIGINT}) {
    Mutex mutex;
    CondVar changed;
    bool drained = false;
    SignalWatcher watcher([&] {
      MutexLock lock(&mutex);
      drained = true;
      changed.NotifyAll();
    });
    kill(getpid(), number);
    MutexLock lock(&mutex);
    while (!drained) changed.Wait(&mutex);
  }
}

TEST(SignalsTest, NoSignalNoDrain) {
  bool drained = false;
  {
    SignalWatcher watcher([&] { drained = true; });
  }
  EXPECT_FALSE(drained);
}

TEST(SignalsDeathTest, SecondSignalEndsAtOnce) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        SignalWatcher watcher([] {
          raise(SIGINT);
          pause();  // a drain that never ends
        });
        raise(SIGTERM);
        pause();
      },
      testing::ExitedWithCode(128 + SIGINT), "");
}

TEST(SignalsTest, BrokenPipeIsAnErrorOfTheWrite) {
  SignalWatcher watcher([] {});
  int fds[2];
  ASSERT_EQ(pipe(fds), 0);
  close(fds[0]);
  EXPECT_EQ(write(fds[1], "x", 1), -1);
  EXPECT_EQ(errno, EPIPE);
  close(fds[1]);
}

}  // namespace
}  // namespace moepool
