// Work that nobody wants any more is given up between two layers, and what the last update says of a
// sequence.
#include <gmock/gmock.h>

#include <set>

#include "tests/support/preempting_scheduler.h"
#include "tests/unit/router/engine_testing.h"

namespace moepool {
namespace {

using ::testing::ElementsAre;

// Calls `act` once, when the gate of layer 0 has chosen for a step of at least so many rows.
class AtTheGate {
 public:
  DecoderHooks Hooks() {
    DecoderHooks hooks;
    hooks.on_gate = [this](int layer, std::span<const StepRow> rows, std::span<const SelectedExpert>) {
      MutexLock lock(&mutex_);
      if (acted_) {
        layers_after_.push_back(layer);
      } else if (layer == 0 && act_ && rows.size() >= rows_) {
        acted_ = true;
        act_();
      }
    };
    return hooks;
  }
  void At(size_t rows, std::function<void()> act) {
    MutexLock lock(&mutex_);
    rows_ = rows;
    act_ = std::move(act);
    acted_ = false;
    layers_after_.clear();
  }
  std::vector<int> layers_after() {
    MutexLock lock(&mutex_);
    return layers_after_;
  }

 private:
  Mutex mutex_;
  size_t rows_ GUARDED_BY(mutex_) = 0;
  std::function<void()> act_ GUARDED_BY(mutex_);
  bool acted_ GUARDED_BY(mutex_) = false;
  std::vector<int> layers_after_ GUARDED_BY(mutex_);
};

class EngineVainTest : public EngineTest {
 protected:
  void Begin() {
    SynthSpec spec = MixtralSpec();
    spec.layers = 3;
    EngineOptions options;
    options.decoder = gate_.Hooks();
    Start(spec, options);
  }
  void ExpectFreed() {
    EXPECT_TRUE(engine_->WaitIdle(absl::Minutes(1)));
    const EngineStats stats = engine_->Stats();
    EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks);
    EXPECT_EQ(stats.running, 0);
    EXPECT_EQ(stats.waiting, 0);
  }

  AtTheGate gate_;
};

TEST_F(EngineVainTest, ACancelledPromptReachesNoFurtherLayer) {
  Begin();
  Collector collector;
  std::unique_ptr<TrunkCall> call;
  Mutex ready;
  ready.Lock();  // the call is there before the step is
  gate_.At(100, [&] {
    MutexLock lock(&ready);
    call->Cancel();
  });
  call = engine_->Generate(Request(100, 50), collector.Callback()).value();
  ready.Unlock();
  EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kCancelled);
  ExpectFreed();
  EXPECT_TRUE(gate_.layers_after().empty());
  EXPECT_EQ(engine_->Stats().abandoned_steps, 1u);
  EXPECT_EQ(engine_->Stats().prefill_rows, 0u);
  EXPECT_EQ(engine_->Stats().kv_blocks_cached, 0);
}

TEST_F(EngineVainTest, ADeadlineThatPassesEndsTheStep) {
  Begin();
  // On a stalled machine the deadline may pass before the step comes to the gate: then again, with more time.
  for (absl::Duration wait = absl::Milliseconds(300); engine_->Stats().abandoned_steps == 0; wait *= 2) {
    Collector collector;
    SequenceRequest request = Request(100, 50);
    request.deadline = absl::Now() + wait;
    gate_.At(100, [&] {
      while (absl::Now() < request.deadline) std::this_thread::yield();
    });
    const auto call = engine_->Generate(request, collector.Callback());
    EXPECT_EQ(collector.WaitFinished().status.code(), absl::StatusCode::kDeadlineExceeded);
    ExpectFreed();
    EXPECT_TRUE(gate_.layers_after().empty());
    ASSERT_LT(wait, absl::Seconds(60));
  }
  EXPECT_EQ(engine_->Stats().abandoned_steps, 1u);
}

TEST_F(EngineVainTest, ANeighbourThatGoesOnKeepsTheStep) {
  Begin();
  const std::vector<int32_t> undisturbed = Run(Request(30, 40));
  Collector goes_on;
  Collector cancelled;
  std::unique_ptr<TrunkCall> call;
  Mutex ready;
  ready.Lock();
  gate_.At(90, [&] {
    MutexLock lock(&ready);
    call->Cancel();
  });
  SequenceRequest other = Request(90, 40);
  std::reverse(other.prompt.begin(), other.prompt.end());
  const auto neighbour = engine_->Generate(Request(30, 40), goes_on.Callback());
  call = engine_->Generate(other, cancelled.Callback()).value();
  ready.Unlock();
  EXPECT_EQ(cancelled.WaitFinished().status.code(), absl::StatusCode::kCancelled);
  EXPECT_TRUE(goes_on.WaitFinished().status.ok());
  EXPECT_EQ(goes_on.ids(), undisturbed);
  ExpectFreed();
}

TEST_F(EngineVainTest, TheLastUpdateSaysWhatHappenedOnTheWay) {
  EngineOptions options;
  options.make_scheduler = [](const SchedulerLimits& limits) {
    return std::make_unique<PreemptingScheduler>(limits);
  };
  Start(MixtralSpec(), options);
  SequenceUpdate last;
  Run(Request(20, 6), &last);
  EXPECT_TRUE(last.status.ok());
  EXPECT_EQ(last.preemptions, 5);
  EXPECT_EQ(last.retries, 0);
}

}  // namespace
}  // namespace moepool
