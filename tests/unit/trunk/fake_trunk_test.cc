#include "common/trunk/fake_trunk.h"

#include "gtest/gtest.h"

namespace moepool {
namespace {

// Updates of one call, as they came.
struct Received {
  Mutex mutex;
  CondVar changed;
  std::vector<SequenceUpdate> updates GUARDED_BY(mutex);
  UpdateCallback Callback() {
    return [this](SequenceUpdate update) {
      MutexLock lock(&mutex);
      updates.push_back(std::move(update));
      changed.NotifyAll();
    };
  }
  void WaitFinished() {
    MutexLock lock(&mutex);
    while (updates.empty() || !updates.back().finished) changed.Wait(&mutex);
  }
};

TEST(FakeTrunkTest, CancelledCallEndsWithCancelled) {
  FakeTrunk trunk{ModelInfo()};
  Received received;
  const auto call = trunk.Generate({}, received.Callback());
  ASSERT_TRUE(call.ok());
  (*call)->Cancel();
  received.WaitFinished();
  EXPECT_EQ(received.updates.back().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(trunk.WaitCall(0)->cancelled());
}

TEST(FakeTrunkTest, DestroyedCallGetsNoUpdate) {
  FakeTrunk trunk{ModelInfo()};
  Received received;
  { const auto call = trunk.Generate({}, received.Callback()); }
  trunk.WaitCall(0)->WaitCancelled();
  EXPECT_FALSE(trunk.WaitCall(0)->SendIds({1}));
  EXPECT_TRUE(received.updates.empty());
}

TEST(FakeTrunkTest, FinishedCallIsNotCancelled) {
  FakeTrunk trunk{ModelInfo()};
  Received received;
  {
    const auto call = trunk.Generate({}, received.Callback());
    trunk.WaitCall(0)->Finish(FinishReason::kStop);
  }
  EXPECT_FALSE(trunk.WaitCall(0)->cancelled());
}

}  // namespace
}  // namespace moepool
