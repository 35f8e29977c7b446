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
#include "common/base/processors.h"

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

TEST(ThreadPoolTest, ZeroMeansOneForEachProcessorAllowed) {
  EXPECT_EQ(ThreadPool(0).threads(), static_cast<int>(AllowedProcessors().size()));
  std::thread([] {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(AllowedProcessors().back(), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    EXPECT_EQ(ThreadPool(0).threads(), 1);
  }).join();
}

// Each body of a job waits until all have begun, so that the job ends only if everyone is there. Before every
// second job the threads have had the time to fall asleep.
TEST_P(ThreadPoolTest, WakesThoseThatSleep) {
  const int threads = GetParam();
  ThreadPool pool(threads);
  for (int job = 0; job < 10; ++job) {
    if (job % 2 == 0) std::this_thread::sleep_for(3 * kStayAwake);
    std::atomic<int> begun{0};
    pool.ParallelFor(threads, [&](int64_t) {
      begun.fetch_add(1);
      while (begun.load() < threads) std::this_thread::yield();
    });
    EXPECT_EQ(begun.load(), threads);
  }
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

// A thread may be moved on at any time, so that the test asks until the answer is the one wanted; it never is
// for all parts where nobody moves anyone.
TEST(ThreadPoolTest, KeepsToItsPartOfTheProcessorsAndLeavesThreadsFree) {
  const std::vector<int> all = AllowedProcessors();
  if (!AllProcessorsAllowed()) return;  // every part is all of them
  const int n = static_cast<int>(all.size());
  ThreadPool pool(n);
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  for (const int slots : {1, 2, 3, 200}) {
    for (const int slot : {0, slots / 2, slots - 1}) {
      const int begin = slot * n / slots;
      const int end = std::max((slot + 1) * n / slots, begin + 1);
      const auto in_part = [&](int cpu) {
        return std::find(all.begin() + begin, all.begin() + end, cpu) != all.begin() + end;
      };
      bool met = false;
      for (int i = 0; i < 1000 && !met; ++i) {
        ASSERT_EQ(pool.UsePart(slot, slots), end - begin);
        met = in_part(sched_getcpu());
        std::atomic<bool> inside{true};
        pool.ParallelFor(64, end - begin, [&](int64_t) {
          if (!in_part(sched_getcpu())) inside.store(false);
        });
        met = met && inside.load();
      }
      EXPECT_TRUE(met) << "part " << slot << " of " << slots;
      cpu_set_t after;
      ASSERT_EQ(sched_getaffinity(0, sizeof(after), &after), 0);
      EXPECT_TRUE(CPU_EQUAL(&before, &after));
    }
  }
}

TEST(ThreadPoolTest, StaysOnProcessorsThatWereTakenAway) {
  ThreadPool pool(2);
  std::thread([&] {
    const std::vector<int> all = AllowedProcessors();
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(all.back(), &one);
    ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
    const int slots = static_cast<int>(all.size());
    for (int slot = 0; slot < slots; ++slot) {
      pool.UsePart(slot, slots);
      EXPECT_EQ(AllowedProcessors(), std::vector<int>{all.back()});
    }
  }).join();
}

TEST(ThreadPoolTest, StartsAndStopsIdle) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace moepool
