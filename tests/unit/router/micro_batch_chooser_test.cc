// The choice of micro-batches against pipelines whose times are known.
#include "router/micro_batch_chooser.h"

#include <algorithm>
#include <functional>
#include <random>

#include "gtest/gtest.h"

namespace moepool {
namespace {

// What one exchange's rows cost, each a fixed time and one for each row, in microseconds.
struct Machine {
  double trunk_fixed, trunk_row;
  double worker_fixed, worker_row;
  double network_fixed, network_row;

  LayersTime Run(int rows, int micro_batches) const {
    const double n = static_cast<double>(rows) / micro_batches;
    const double trunk = trunk_fixed + n * trunk_row;
    const double worker = worker_fixed + n * worker_row;
    const double network = network_fixed + n * network_row;
    const double chain = trunk + worker + network;
    const double whole =
        micro_batches == 1 ? chain : std::max({chain, 2 * trunk, 2 * worker, 2 * n * network_row});
    LayersTime time;
    time.rows = rows;
    time.micro_batches = micro_batches;
    time.whole = absl::Microseconds(whole);
    time.waited = absl::Microseconds(whole - micro_batches * trunk);
    time.computed = absl::Microseconds(micro_batches * worker);
    return time;
  }
};

// A third each, and a prompt's rows weigh more than the weights.
constexpr Machine kEven = {100, 10, 100, 10, 100, 10};
// The time of reading weights, most of it the workers'.
constexpr Machine kWeights = {200, 0.1, 800, 0.1, 50, 0.1};

class MicroBatchChooserTest : public testing::Test {
 protected:
  // Steps of so many rows, as chosen; the number of those in two.
  int Run(const Machine& machine, int rows, int steps) {
    int in_two = 0;
    for (int i = 0; i < steps; ++i) {
      const int chosen = chooser_.Choose(rows);
      if (chosen == 2) ++in_two;
      chooser_.Add(machine.Run(rows, chosen));
    }
    return in_two;
  }

  MicroBatchChooser chooser_;
};

TEST_F(MicroBatchChooserTest, OneUntilItIsTimed) {
  EXPECT_EQ(chooser_.Choose(512), 1);
  EXPECT_EQ(chooser_.PredictTwo(512), absl::ZeroDuration());
  EXPECT_EQ(Run(kEven, 512, 3), 0);
  EXPECT_GT(chooser_.PredictTwo(512), absl::ZeroDuration());
}

TEST_F(MicroBatchChooserTest, TwoWhereTheyAreFaster) {
  Run(kEven, 512, 6);
  EXPECT_EQ(Run(kEven, 512, 10), 10);
  EXPECT_GT(Run(kEven, 512, 1000), 950);  // one is tried now and then
}

TEST_F(MicroBatchChooserTest, OneWhereWeightsAreReadAgain) {
  const int in_two = Run(kWeights, 32, 10'000);
  EXPECT_GE(in_two, 3);  // it was tried
  EXPECT_LE(in_two, 40);
  EXPECT_EQ(chooser_.Choose(32), 1);
}

TEST_F(MicroBatchChooserTest, NeverTwoOfFewRows) {
  EXPECT_EQ(Run(kEven, MicroBatchChooser::kFewestRows - 1, 10'000), 0);
  EXPECT_GT(Run(kEven, MicroBatchChooser::kFewestRows, 10'000), 0);
}

TEST_F(MicroBatchChooserTest, EachNumberOfRowsForItself) {
  const Machine machine = {200, 2, 400, 1, 10, 4};  // in two slower for 32 rows, faster for 512
  Run(machine, 32, 600);
  Run(machine, 512, 600);
  EXPECT_EQ(Run(machine, 32, 10), 0);
  EXPECT_EQ(Run(machine, 512, 10), 10);
}

// What no prediction knows of shows when it is tried: here two disturb one another.
TEST_F(MicroBatchChooserTest, WhatIsMeasuredDecides) {
  int in_two = 0;
  for (int i = 0; i < 2000; ++i) {
    const int chosen = chooser_.Choose(512);
    LayersTime time = kEven.Run(512, chosen);
    if (chosen == 2) {
      ++in_two;
      time.whole *= 2;
    }
    chooser_.Add(time);
  }
  EXPECT_LT(chooser_.PredictTwo(512), kEven.Run(512, 1).whole);
  EXPECT_EQ(chooser_.Choose(512), 1);
  EXPECT_GE(in_two, 3);
  EXPECT_LE(in_two, 30);
}

TEST_F(MicroBatchChooserTest, TriesAreRarerTheOftenerTheyLose) {
  int last = 0;
  int longest = 0;
  int shortest = 1 << 20;
  for (int i = 0; i < 40'000; ++i) {
    const int chosen = chooser_.Choose(64);
    if (chosen == 2 && i > last + 1) {
      if (last > 0) shortest = std::min(shortest, i - last);
      longest = std::max(longest, i - last);
    }
    if (chosen == 2) last = i;
    chooser_.Add(kWeights.Run(64, chosen));
  }
  EXPECT_LT(shortest, 600);
  EXPECT_GE(longest, 4096);
  EXPECT_LE(longest, 4100);
}

TEST_F(MicroBatchChooserTest, FollowsANetworkThatChanges) {
  Machine slow = kEven;
  Machine fast = kWeights;
  Run(fast, 256, 3000);
  EXPECT_EQ(chooser_.Choose(256), 1);
  Run(slow, 256, 5000);
  EXPECT_EQ(Run(slow, 256, 10), 10);
  Run(fast, 256, 100);
  EXPECT_EQ(Run(fast, 256, 5), 0);
}

TEST_F(MicroBatchChooserTest, NoiseDoesNotFlipTheChoice) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> noise(0.9, 1.1);
  int in_two = 0;
  for (int i = 0; i < 20'000; ++i) {
    const int chosen = chooser_.Choose(32);
    if (chosen == 2) ++in_two;
    LayersTime time = kWeights.Run(32, chosen);
    time.whole *= noise(random);
    chooser_.Add(time);
  }
  EXPECT_LE(in_two, 60);
}

// From what halves took where they have been seen, which tells what weights cost.
TEST_F(MicroBatchChooserTest, PredictsFromHalves) {
  for (const Machine& machine : {kEven, kWeights}) {
    chooser_ = {};
    for (const int rows : {64, 32}) {
      for (int i = 0; i < 3; ++i) chooser_.Add(machine.Run(rows, 1));
    }
    const double expected = absl::ToDoubleMicroseconds(machine.Run(64, 2).whole);
    EXPECT_NEAR(absl::ToDoubleMicroseconds(chooser_.PredictTwo(64)), expected, 0.001 * expected);
  }
}

TEST_F(MicroBatchChooserTest, WithoutHalvesTheyTakeThreeQuartersOfTheWhole) {
  Run(kEven, 64, 3);
  const double whole = absl::ToDoubleMicroseconds(kEven.Run(64, 1).whole);
  EXPECT_NEAR(absl::ToDoubleMicroseconds(chooser_.PredictTwo(64)), 0.75 * whole, 0.001 * whole);
}

TEST_F(MicroBatchChooserTest, AnyNumberOfRowsHasItsPlace) {
  for (int rows = 1; rows <= 70'000; rows += 1 + rows / 7) {
    chooser_.Add(kEven.Run(rows, 1));
    EXPECT_GE(chooser_.Choose(rows), 1);
  }
  chooser_.Add({});
}

}  // namespace
}  // namespace moepool
