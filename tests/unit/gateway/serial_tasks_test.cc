#include "gateway/serial_tasks.h"

#include <future>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;

TEST(SerialTasksTest, ATaskRunsBeforeRunReturnsAndOnesThatItBringsAfterIt) {
  SerialTasks tasks;
  std::vector<int> seen;
  tasks.Run([&] {
    tasks.Run([&] {
      seen.push_back(3);
      tasks.Run([&] { seen.push_back(5); });
    });
    tasks.Run([&] { seen.push_back(4); });
    seen.push_back(1);
    seen.push_back(2);
  });
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5));
}

TEST(SerialTasksTest, WhoeverFindsATaskUnderWayLeavesItsOwnToThatThread) {
  SerialTasks tasks;
  std::promise<void> begun;
  std::promise<void> left;
  std::thread::id ran_in;
  std::thread first([&] {
    tasks.Run([&] {
      begun.set_value();
      left.get_future().wait();
    });
  });
  const std::thread::id first_id = first.get_id();
  begun.get_future().wait();
  tasks.Run([&] { ran_in = std::this_thread::get_id(); });  // would hang here if it waited for its turn
  left.set_value();
  first.join();
  EXPECT_EQ(ran_in, first_id);
}

TEST(SerialTasksTest, WhatIsAddedWaitsForWhoeverRuns) {
  SerialTasks tasks;
  std::vector<int> seen;
  tasks.Add([&] { seen.push_back(1); });
  tasks.Add([&] { seen.push_back(2); });
  EXPECT_THAT(seen, ElementsAre());
  tasks.RunAdded();
  EXPECT_THAT(seen, ElementsAre(1, 2));
  tasks.RunAdded();
  tasks.Add([&] { seen.push_back(3); });
  tasks.Run([&] { seen.push_back(4); });
  tasks.Run([&] {
    tasks.Add([&] { seen.push_back(6); });
    tasks.RunAdded();  // one is under way
    seen.push_back(5);
  });
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(SerialTasksTest, NoTwoAtATimeAndEachThreadsInOrder) {
  constexpr int kThreads = 4;
  constexpr int kTasks = 20'000;
  SerialTasks tasks;
  std::vector<int> next(kThreads);  // without a lock: a race is seen by sanitizers, and as lost counts
  bool in_order = true;
  std::vector<std::thread> threads;
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kTasks; ++i) {
        tasks.Run([&, thread, i] {
          in_order = in_order && next[static_cast<size_t>(thread)] == i;
          ++next[static_cast<size_t>(thread)];
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_TRUE(in_order);
  EXPECT_THAT(next, ElementsAre(kTasks, kTasks, kTasks, kTasks));
}

}  // namespace
}  // namespace moepool
