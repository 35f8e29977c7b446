#include "router/contention.h"

#include "gtest/gtest.h"

namespace moepool {
namespace {

class HostContentionTest : public testing::Test {
 protected:
  // Exchanges of `exchange`, of which `own` is not computing, for `time`, unless it is time to sleep before.
  void Run(absl::Duration exchange, absl::Duration own, absl::Duration time) {
    const absl::Time end = now_ + time;
    while (now_ < end && !contention_.Asleep(now_)) {
      now_ += exchange;
      contention_.Add(exchange, exchange - own, now_);
    }
  }
  // How long it is to be slept from now on, to a tenth of a second.
  absl::Duration TimeAsleep() {
    const absl::Time begin = now_;
    while (contention_.Asleep(now_)) {
      contention_.Add(absl::Milliseconds(100), absl::ZeroDuration(), now_);  // does not count
      now_ += absl::Milliseconds(100);
    }
    return now_ - begin;
  }

  HostContention contention_;
  absl::Time now_ = absl::UnixEpoch();
};

TEST_F(HostContentionTest, AwakeWhereTurnsAreQuick) {
  Run(absl::Microseconds(376), absl::Microseconds(16), absl::Seconds(3));  // a large model
  EXPECT_FALSE(contention_.Asleep(now_));
  Run(absl::Microseconds(60), absl::Microseconds(45), absl::Seconds(3));  // a tiny one
  EXPECT_FALSE(contention_.Asleep(now_));
}

TEST_F(HostContentionTest, AsleepWhereAnEighthIsLost) {
  Run(absl::Microseconds(800), absl::Microseconds(100), absl::Seconds(3));
  EXPECT_FALSE(contention_.Asleep(now_));
  const absl::Time begin = now_;
  Run(absl::Microseconds(800), absl::Microseconds(101), absl::Seconds(3));
  EXPECT_TRUE(contention_.Asleep(now_));
  EXPECT_LE(now_ - begin, absl::Milliseconds(202));
}

TEST_F(HostContentionTest, TheFewDoNotDecide) {
  for (int i = 0; i < 100; ++i) {
    Run(absl::Milliseconds(9), absl::Milliseconds(8), absl::Milliseconds(9) * 16);  // new pages, say
    Run(absl::Milliseconds(1), absl::ZeroDuration(), absl::Milliseconds(48));
    ASSERT_FALSE(contention_.Asleep(now_)) << i;
  }
}

TEST_F(HostContentionTest, TriesAgainEverMoreRarely) {
  for (const int seconds : {1, 2, 4, 8, 16, 32, 32}) {
    Run(absl::Milliseconds(1), absl::Microseconds(300), absl::Seconds(1));
    EXPECT_EQ(TimeAsleep(), absl::Seconds(seconds));
  }
  Run(absl::Milliseconds(1), absl::Microseconds(100), absl::Seconds(1));  // the contention is over
  Run(absl::Milliseconds(1), absl::Microseconds(300), absl::Seconds(1));
  EXPECT_EQ(TimeAsleep(), absl::Seconds(1));
}

}  // namespace
}  // namespace moepool
