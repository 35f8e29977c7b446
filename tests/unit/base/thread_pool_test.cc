// Every index once, whatever the number of threads, job after job.
#include "common/base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <set>
#include <thread>
#include <vector>

#include "common/base/awake_wait.h"
#include "common/base/mutex.h"

namespace moepool {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 7));

TEST_P(ThreadPoolTest, CallsEachIndexOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.threads(), GetParam());
  for (int64_t n : {0, 1, 2, 3, 64, 1000}) {
    std::vector<std::atomic<int>> calls(n);
    pool.ParallelFor(n, [&](int64_t i) { calls[i].fetch_add(1); });
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(calls[i].load(), 1) << i << " of " << n;
  }
}

// Jobs of changing size follow one another at once, so that threads arrive late and find a later job.
TEST_P(ThreadPoolTest, LateThreadsDoNotDisturbLaterJobs) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> written(64);
  int64_t expected = 0;
  std::atomic<int64_t> total{0};
  for (int job = 0; job < 20000; ++job) {
    const int64_t n = job * 7 % 13;
    pool.ParallelFor(n, [&](int64_t i) {
      written[i] = job;
      total.fetch_add(i + 1);
    });
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(written[i], job);
    expected += n * (n + 1) / 2;
  }
  EXPECT_EQ(total.load(), expected);
}

TEST(ThreadPoolTest, ZeroMeansOneAThreadOfTheMachine) {
  ThreadPool pool(0);
  EXPECT_GE(pool.threads(), 1);
}

// Long enough apart that the threads sleep when the job comes, and at once, when they are awake.
TEST_P(ThreadPoolTest, WakesThoseThatSleep) {
  ThreadPool pool(GetParam());
  std::atomic<int64_t> total{0};
  for (int job = 0; job < 20; ++job) {
    std::this_thread::sleep_for(job % 2 == 0 ? 3 * kStayAwake : std::chrono::milliseconds(0));
    pool.ParallelFor(100, [&](int64_t i) { total.fetch_add(i); });
  }
  EXPECT_EQ(total.load(), 20 * 4950);
}

TEST_P(ThreadPoolTest, KeepsToTheThreadsAllowed) {
  ThreadPool pool(GetParam());
  for (int threads = 0; threads <= 4; ++threads) {
    for (int job = 0; job < 200; ++job) {
      Mutex mutex;
      std::set<std::thread::id> seen;
      std::vector<int> calls(40);
      pool.ParallelFor(40, threads, [&](int64_t i) {
        MutexLock lock(&mutex);
        seen.insert(std::this_thread::get_id());
        ++calls[i];
      });
      EXPECT_LE(seen.size(), static_cast<size_t>(std::max(1, threads)));
      EXPECT_EQ(calls, std::vector<int>(40, 1));
    }
  }
}

TEST(ThreadPoolTest, MovesTheCallerAndLeavesItFree) {
  ThreadPool pool(1);
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  for (const int slots : {1, 2, 3, 200}) {
    for (const int slot : {0, slots / 2, slots - 1}) {
      pool.MoveCaller(slot, slots);
      cpu_set_t after;
      ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
      EXPECT_TRUE(CPU_EQUAL(&before, &after));
    }
  }
}

TEST(ThreadPoolTest, StartsAndStopsIdle) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace moepool
