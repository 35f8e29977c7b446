// The emulation itself: what kernels rely on, and that misuse is an error rather than a hang.
#include "common/kernels/cuda/simt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace moepool {
namespace {

using simt::kAllLanes;
using simt::LaunchOptions;
using simt::Order;
using ::testing::HasSubstr;

constexpr Order kOrders[] = {Order::kAscending, Order::kDescending, Order::kShuffled};

TEST(SimtTest, EveryThreadOfTheGridRunsOnce) {
  std::vector<int> runs(2 * 3 * 2 * 4 * 5 * 2);
  const auto kernel = [&] {
    const uint32_t block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const uint32_t thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    ++runs[block * 40 + thread];
  };
  EXPECT_EQ(simt::Launch({.grid = {2, 3, 2}, .block = {4, 5, 2}}, kernel), "");
  EXPECT_EQ(runs, std::vector<int>(runs.size(), 1));
}

TEST(SimtTest, WhatIsWrittenBeforeABarrierIsReadAfter) {
  for (const Order order : kOrders) {
    std::vector<int> out(2 * 70, -1);
    const auto kernel = [&] {
      SIMT_SHARED(int, shared, 70);
      const int i = static_cast<int>(threadIdx.x);
      shared[i] = i + 100 * static_cast<int>(blockIdx.x);
      simt::SyncThreads();
      out[blockIdx.x * 70 + threadIdx.x] = shared[69 - i];
    };
    EXPECT_EQ(simt::Launch({.grid = {2}, .block = {70}, .order = order}, kernel), "");
    for (int i = 0; i < 140; ++i) EXPECT_EQ(out[i], 69 - i % 70 + 100 * (i / 70));
  }
}

TEST(SimtTest, WithoutTheBarrierSomeOrderShowsIt) {
  int wrong = 0;
  for (const Order order : kOrders) {
    const auto kernel = [&] {
      SIMT_SHARED(int, shared, 64);
      shared[threadIdx.x] = 1;
      wrong += shared[63 - threadIdx.x] != 1 ? 1 : 0;
    };
    EXPECT_EQ(simt::Launch({.block = {64}, .order = order}, kernel), "");
  }
  EXPECT_GT(wrong, 0);
}

TEST(SimtTest, SharedMemoryHoldsNothingOfTheBlockBefore) {
  int stale = 0;
  const auto kernel = [&] {
    SIMT_SHARED(int, fixed, 1);
    SIMT_DYNAMIC_SHARED(int, dynamic);
    stale += fixed[0] == 7 || dynamic[1] == 7 ? 1 : 0;
    fixed[0] = dynamic[1] = 7;
  };
  EXPECT_EQ(simt::Launch({.grid = {5}, .dynamic_shared_bytes = 8}, kernel), "");
  EXPECT_EQ(stale, 0);
}

TEST(SimtTest, ShufflesAndVotes) {
  for (const Order order : kOrders) {
    std::vector<float> sums(64);
    std::vector<int> up(64);
    std::vector<uint32_t> odd(64);
    int any = 0;
    int all = 0;
    const auto kernel = [&] {
      const int lane = static_cast<int>(threadIdx.x) % 32;
      float sum = static_cast<float>(threadIdx.x);
      for (int m = 16; m > 0; m /= 2) sum += simt::ShuffleXor(kAllLanes, sum, m);
      sums[threadIdx.x] = sum;
      up[threadIdx.x] = simt::ShuffleUp(kAllLanes, lane, 3) + 1000 * simt::Shuffle(kAllLanes, lane, 5);
      odd[threadIdx.x] = simt::Ballot(kAllLanes, lane % 2 == 1);
      any += simt::Any(kAllLanes, threadIdx.x == 40) ? 1 : 0;
      all += simt::All(kAllLanes, threadIdx.x != 40) ? 1 : 0;
    };
    EXPECT_EQ(simt::Launch({.block = {64}, .order = order}, kernel), "");
    for (int i = 0; i < 64; ++i) {
      EXPECT_EQ(sums[i], i < 32 ? 496 : 1520);
      EXPECT_EQ(up[i], 5000 + (i % 32 < 3 ? i % 32 : i % 32 - 3));
      EXPECT_EQ(odd[i], 0xaaaaaaaa);
    }
    EXPECT_EQ(any, 32);
    EXPECT_EQ(all, 32);
  }
}

TEST(SimtTest, PartsOfAWarpMeetApart) {
  std::vector<uint32_t> votes(32);
  const auto kernel = [&] {
    const bool low = threadIdx.x < 16;
    if (low) simt::SyncWarp(0xffff);
    votes[threadIdx.x] = simt::Ballot(low ? 0xffff : 0xffff0000, threadIdx.x % 3 == 0);
  };
  EXPECT_EQ(simt::Launch({.block = {32}}, kernel), "");
  for (uint32_t i = 0; i < 32; ++i) EXPECT_EQ(votes[i], 0x49249249 & (i < 16 ? 0xffff : 0xffff0000));
}

TEST(SimtTest, AtomicsAndDotProducts) {
  int32_t sum = 5;
  int32_t bits = 0;
  const auto kernel = [&] {
    simt::AtomicAdd(&sum, 2);
    simt::AtomicOr(&bits, 1 << threadIdx.x);
  };
  EXPECT_EQ(simt::Launch({.block = {8}}, kernel), "");
  EXPECT_EQ(sum, 21);
  EXPECT_EQ(bits, 255);
  EXPECT_EQ(simt::Dp4a(0x80ff0102, 0x7f02fe03, 10), 10 + 2 * 3 + 1 * -2 + -1 * 2 + -128 * 127);
}

TEST(SimtTest, MatrixProductsOfBytes) {
  int8_t a[16][32];
  int8_t b[8][32];
  for (int k = 0; k < 32; ++k) {
    for (int row = 0; row < 16; ++row) a[row][k] = static_cast<int8_t>(row * 37 + k * 11 - 128);
    for (int col = 0; col < 8; ++col) b[col][k] = static_cast<int8_t>(col * 53 - k * 7 + 100);
  }
  int32_t d[16][8];
  const auto kernel = [&] {
    const uint32_t g = threadIdx.x / 4;
    const uint32_t t = threadIdx.x % 4;
    uint32_t fragment_a[4];
    uint32_t fragment_b[2];
    for (uint32_t i = 0; i < 4; ++i) fragment_a[i] = simt::Load4(&a[g + 8 * (i % 2)][16 * (i / 2) + 4 * t]);
    for (uint32_t i = 0; i < 2; ++i) fragment_b[i] = simt::Load4(&b[g][16 * i + 4 * t]);
    int32_t sums[4] = {1000, 0, 0, 0};
    simt::MultiplyBytes(fragment_a, fragment_b, sums);
    for (uint32_t i = 0; i < 4; ++i) d[g + 8 * (i / 2)][2 * t + i % 2] = sums[i];
  };
  EXPECT_EQ(simt::Launch({.block = {32}, .order = Order::kShuffled}, kernel), "");
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 8; ++col) {
      int expected = row < 8 && col % 2 == 0 ? 1000 : 0;
      for (int k = 0; k < 32; ++k) expected += a[row][k] * b[col][k];
      EXPECT_EQ(d[row][col], expected) << row << " " << col;
    }
  }
}

TEST(SimtTest, ABarrierThatNotAllThreadsReachIsAnError) {
  const auto ended = [] {
    if (threadIdx.x < 40) simt::SyncThreads();
  };
  EXPECT_EQ(simt::Launch({.grid = {2}, .block = {64}}, ended),
            "thread 0 of block (0, 0, 0) waits for ever in SyncThreads; 24 of 64 threads have ended");
  const auto elsewhere = [] {
    if (threadIdx.x < 32) simt::SyncThreads();
    if (threadIdx.x == 33) simt::SyncWarp(kAllLanes);
    if (threadIdx.x != 33) simt::SyncThreads();
  };
  EXPECT_THAT(simt::Launch({.block = {64}}, elsewhere), HasSubstr("waits for ever"));
}

TEST(SimtTest, MasksAreHeldTo) {
  const auto outside = [] { simt::SyncWarp(0xffff); };
  EXPECT_THAT(simt::Launch({.block = {32}}, outside), HasSubstr("outside the mask of its own SyncWarp"));
  const auto missing = [] {
    if (threadIdx.x != 9) simt::Ballot(kAllLanes, true);
  };
  EXPECT_THAT(simt::Launch({.block = {32}}, missing), HasSubstr("waits for ever in a vote"));
  const auto source = [] { simt::Shuffle(threadIdx.x < 16 ? 0xffff : 0xffff0000, 1, 20); };
  EXPECT_THAT(simt::Launch({.block = {32}}, source), HasSubstr("shuffles from lane 20"));
  const auto short_warp = [] { simt::SyncWarp(kAllLanes); };
  EXPECT_THAT(simt::Launch({.block = {20}}, short_warp), HasSubstr("lanes that there are not"));
  EXPECT_EQ(simt::Launch({.block = {2048}}, short_warp), "a block of 2048 threads");
}

// Stacks are kept from launch to launch, those of a launch that failed too, and threads of the process share
// them.
TEST(SimtTest, ALaunchOwesNothingToThoseBefore) {
  int wrong = 0;
  const auto reversed = [&] {
    SIMT_SHARED(uint32_t, shared, 70);
    shared[threadIdx.x] = threadIdx.x;
    simt::SyncThreads();
    wrong += shared[69 - threadIdx.x] != 69 - threadIdx.x ? 1 : 0;
  };
  const auto abandoned = [] {
    if (threadIdx.x % 3 != 0) simt::SyncThreads();
    if (threadIdx.x % 3 == 1) simt::SyncThreads();
  };
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(simt::Launch({.block = {50}}, abandoned), HasSubstr("17 of 50 threads have ended"));
    std::thread([&] { EXPECT_EQ(simt::Launch({.grid = {2}, .block = {70}}, reversed), ""); }).join();
  }
  EXPECT_EQ(wrong, 0);
}

struct CountArgs {
  int32_t* count;
};
SIMT_KERNEL Count(CountArgs args) {
  simt::SyncThreads();
  simt::AtomicAdd(args.count, 1);
}

TEST(SimtTest, ThreadsOfTheProcessTakeTurns) {
  int32_t count = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int n = 0; n < 20; ++n)
        simt::Start(Count, {.grid_x = 2, .threads = 33}, nullptr, CountArgs{&count});
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 4 * 20 * 2 * 33);
}

}  // namespace
}  // namespace moepool
