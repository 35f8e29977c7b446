// Every index once, and the failure that a serial loop would have met.
#include "common/base/parallel_status.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

namespace moepool {
namespace {

TEST(ParallelStatusTest, CallsEachIndexOnce) {
  for (const int threads : {0, 1, 2, 5}) {
    for (const int64_t n : {0, 1, 2, 3, 200}) {
      std::vector<std::atomic<int>> calls(static_cast<size_t>(n));
      const absl::Status status = ParallelStatus(n, threads, [&](int64_t i) {
        calls[static_cast<size_t>(i)].fetch_add(1);
        return absl::OkStatus();
      });
      EXPECT_TRUE(status.ok());
      for (const auto& count : calls) EXPECT_EQ(count.load(), 1) << threads << " threads, " << n;
    }
  }
}

TEST(ParallelStatusTest, ReturnsTheSmallestThatFailedAndBeginsNoMore) {
  for (const int threads : {1, 2, 5}) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      std::atomic<int64_t> begun = 0;
      const absl::Status status = ParallelStatus(1'000'000, threads, [&](int64_t i) {
        begun.fetch_add(1);
        return i >= 7 ? absl::InternalError(std::to_string(i)) : absl::OkStatus();
      });
      EXPECT_EQ(status.message(), "7");
      EXPECT_LT(begun.load(), 1'000'000);
    }
  }
}

}  // namespace
}  // namespace moepool
